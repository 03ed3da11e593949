"""Reading the signed white list: strict about who signed what, tolerant about what people typed into it.

Invariants: nothing of the list is used before the signature has verified, and then only what was signed (the
canonical form that signxml returns, not the file); the root is the signed element; there is one signature, the last
child of the root; no DTD, entity, network or unexpected algorithm; the signer chains to our anchors, bears the
configured common name, was valid at the list's date and has never been revoked; a malformed entry is set aside and
reported, and a list that holds no usable entry is refused (mssante.md §1).
"""

from __future__ import annotations

import binascii
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from cryptography import x509
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from trustspace.dn import DistinguishedName, DnSyntaxError, parse
from trustspace.listshape import ListRefusal, WhiteListRefused, check_shape, leaf_text, ns, parse_bounded
from trustspace.model import ListedDomain, ListProblem, WhiteList, canonical_domain
from trustspace.paths import Anchors, PathReason, PathValidator, Usage
from trustspace.revocation import Status, issued_by

MAX_ENTRIES = 200_000
MAX_FIELD = 1024
"""The national form limits fields to 255 characters (mssante.md §1.2); a wider margin here, still bounded."""
_DATE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_FIELDS = ("Nom", "Description", "DNCertificatOperateur", "ResponsableContact", "SupportContact", "DateMAJ")


def load_white_list(
    xml: bytes,
    *,
    anchors: Anchors,
    signer_cn: str,
    at: datetime | None = None,
    crls: Sequence[x509.CertificateRevocationList] = (),
    revocation_at: datetime | None = None,
) -> WhiteList:
    """Verify and read a white list. Raises WhiteListRefused, whose `code` says why.

    `at` (aware; default: the list's own date) is the moment at which the signer must have been valid. When `crls` has
    a list of the signer's issuer, or of an authority above, it must be in force at `revocation_at` (default: `at`)
    and must not name the certificate, whatever the date of revocation: a revoked signer could write any date.
    """
    return verify_white_list(xml, PathValidator(anchors, crls), signer_cn=signer_cn, at=at, revocation_at=revocation_at)


def verify_white_list(
    xml: bytes,
    validator: PathValidator,
    *,
    signer_cn: str,
    at: datetime | None = None,
    revocation_at: datetime | None = None,
) -> WhiteList:
    """`load_white_list` with anchors and CRLs that are parsed already."""
    root = parse_bounded(xml)
    certificate = check_shape(root)
    generated = _generated(root)
    # The tree of 3.7 MB takes 30 MB; what follows makes its own, of what was signed.
    del root
    moment = at or generated
    check_signer(certificate, validator, signer_cn=signer_cn, at=moment, revocation_at=revocation_at or moment)
    signed = _verified(xml, certificate, moment)
    if _generated(signed) != generated:
        raise WhiteListRefused(ListRefusal.STRUCTURE, "the signed date is not the date of the file")
    entries, problems = _entries(signed)
    names = names_of_entries(entries)
    return WhiteList(
        generated=generated,
        digest=hashlib.sha256(xml).hexdigest(),
        signer=certificate,
        entries=tuple(entries),
        problems=tuple(problems),
        names=MappingProxyType(names),
        every_name=frozenset().union(*names.values()),
    )


def check_signer(
    certificate: x509.Certificate,
    validator: PathValidator,
    *,
    signer_cn: str,
    at: datetime,
    revocation_at: datetime,
) -> None:
    """Raises WhiteListRefused unless the certificate may sign the list; arguments as `load_white_list`.

    Chain and common name are pinned, not the certificate: it rolls every three years (mssante.md §1.1).
    """
    names = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [signer_cn]:
        raise WhiteListRefused(ListRefusal.SIGNER, "the signer does not bear the expected common name")
    verdict = validator.check(certificate, at=at, usage=Usage.LIST_SIGNATURE, revocation=False)
    if not verdict.trusted:
        raise WhiteListRefused(ListRefusal.SIGNER_UNTRUSTED, f"the signer is not trusted: {verdict.reason}")
    _check_never_revoked(certificate, validator, revocation_at)


def _check_never_revoked(certificate: x509.Certificate, validator: PathValidator, at: datetime) -> None:
    authorities = (*validator.anchors.roots, *validator.anchors.intermediates)
    current = certificate
    for _ in authorities:
        issuer = next((authority for authority in authorities if issued_by(current, authority)), None)
        if issuer is None:
            break
        if validator.index.covers(current.issuer):
            status = validator.index.status(current, issuer, at, whenever=True)
            if status is Status.REVOKED:
                raise WhiteListRefused(ListRefusal.SIGNER_REVOKED, "the signer, or an authority above, is revoked")
            if status is Status.UNKNOWN:
                reason = PathReason.REVOCATION_UNKNOWN
                raise WhiteListRefused(ListRefusal.SIGNER_UNTRUSTED, f"the signer is not trusted: {reason}")
        if issuer in validator.anchors.roots:
            return
        current = issuer
    raise WhiteListRefused(ListRefusal.SIGNER_UNTRUSTED, "the signer's chain does not end at a root")


def _verified(xml: bytes, certificate: x509.Certificate, at: datetime) -> etree._Element:
    """The root as it was signed. The certificate was checked above and is given: nothing in the file chooses a key."""
    expected = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
        verification_time=at,
    )
    try:
        result = XMLVerifier().verify(xml, x509_cert=certificate, expect_config=expected)
    except (SignXMLException, etree.LxmlError, ValueError, TypeError, binascii.Error) as error:
        raise WhiteListRefused(ListRefusal.SIGNATURE_INVALID, "the signature does not verify") from error
    if isinstance(result, list) or result.signed_xml is None or result.signed_xml.tag != ns("ListeBlancheMSSante"):
        raise WhiteListRefused(ListRefusal.SIGNATURE_INVALID, "the signature does not cover the list")
    return result.signed_xml


def _generated(root: etree._Element) -> datetime:
    dates = root.findall(ns("DateDeGeneration"))
    if len(dates) != 1:
        raise WhiteListRefused(ListRefusal.STRUCTURE, "not exactly one date of generation")
    moment = _date(leaf_text(dates[0]) or "")
    if moment is None:
        raise WhiteListRefused(ListRefusal.STRUCTURE, "the date of generation is not a UTC date")
    return moment


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _entries(root: etree._Element) -> tuple[list[ListedDomain], list[ListProblem]]:
    holders = root.findall(ns("ListeDomaines"))
    if len(holders) != 1 or len(root) != 2:
        raise WhiteListRefused(ListRefusal.STRUCTURE, "not exactly one list of domains")
    if len(holders[0]) > MAX_ENTRIES:
        raise WhiteListRefused(ListRefusal.TOO_LARGE, "too many entries")
    entries: list[ListedDomain] = []
    problems: list[ListProblem] = []
    for position, element in enumerate(holders[0], start=1):
        try:
            entry = _entry(element)
        except ValueError as error:
            domain = element.findtext(ns("Nom")) if isinstance(element.tag, str) else None
            problems.append(ListProblem(position, (domain or "")[:255], str(error)))
            continue
        if entry.updated is None:
            problems.append(ListProblem(position, entry.domain, "DateMAJ is not a date (entry kept)"))
        entries.append(entry)
    if not entries:
        raise WhiteListRefused(ListRefusal.STRUCTURE, "no usable entry")
    return entries, problems


def names_of_entries(entries: Iterable[ListedDomain]) -> dict[str, frozenset[DistinguishedName]]:
    """The join's relation: canonical domain -> names listed for it. Raises ValueError for a malformed entry."""
    names: dict[str, set[DistinguishedName]] = defaultdict(set)
    for entry in entries:
        names[canonical_domain(entry.domain)].add(parse(entry.operator_dn))
    return {domain: frozenset(listed) for domain, listed in names.items()}


def _entry(element: etree._Element) -> ListedDomain:
    """One `Domaine`. Raises ValueError, with a reason that can be shown, for an entry to set aside."""
    if element.tag != ns("Domaine"):
        raise ValueError("not a Domaine element")
    values: dict[str, str] = {}
    for child in element:
        text = leaf_text(child)
        field = etree.QName(child).localname if isinstance(child.tag, str) else ""
        if text is None or field not in _FIELDS or child.tag != ns(field):
            raise ValueError("unexpected content")
        if field in values:
            raise ValueError(f"{field} repeated")
        if len(text) > MAX_FIELD:
            raise ValueError(f"{field} too long")
        values[field] = text
    for field in ("Nom", "DNCertificatOperateur"):
        if not values.get(field):
            raise ValueError(f"{field} missing")
    try:
        parse(values["DNCertificatOperateur"])
    except DnSyntaxError as error:
        raise ValueError(f"DNCertificatOperateur: {error}") from error
    entry = ListedDomain(
        domain=values["Nom"],
        operator_dn=values["DNCertificatOperateur"],
        description=values.get("Description", ""),
        contact=values.get("ResponsableContact", ""),
        support=values.get("SupportContact", ""),
        updated=_date(values.get("DateMAJ", "")),
    )
    canonical_domain(entry.domain)
    return entry


__all__ = ["MAX_ENTRIES", "ListRefusal", "WhiteListRefused", "check_signer", "load_white_list", "verify_white_list"]
