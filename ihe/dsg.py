"""The signature of a deposit lot: XAdES 1.1.1 over an IHE DSG manifest (dmp.md §3.7).

SignedInfo covers two things: the manifest (`#IHEManifest`: the submission set's placeholder `AA==`, then one reference
`urn:oid:<uniqueId>` per document with the digest of its canonical form) and the signed properties. The digest is
configurable: SHA-256 by default, SHA-1 as in the published example (dmp.md §13). Verification refuses SHA-1 unless asked.

Our own file is written in canonical form from the start: its parts are digested as they stand, without a canonicalisation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.constant_time import bytes_eq
from lxml import etree

from ihe.certificates import base64_of, certificate_of, issuer_of, octets_of, public_key_of
from ihe.xml import Element, XmlError, XmlLimits, escaped, escaped_attribute, parse_xml, text_of, to_bytes

DS = "http://www.w3.org/2000/09/xmldsig#"
XADES = "http://uri.etsi.org/01903/v1.1.1#"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
C14N_COMMENTS = f"{C14N}#WithComments"
MANIFEST_TYPE = f"{DS}Manifest"
PROPERTIES_TYPE = f"{XADES}SignedProperties"
SOURCE_PURPOSE = "1.2.840.10065.1.12.1.14"
_MANIFEST_ID = "IHEManifest"
_PROPERTIES_ID = "S0-SignedProperties"
_NS = {"ds": DS, "x": XADES}
_NAMED = etree.XPath("//*[@Id=$name]")
_TAG = re.compile(r"<[^ >]+")
_LIMITS = XmlLimits(size=1024 * 1024, depth=32, elements=20_000)


class DsgError(Exception):
    """The lot signature cannot be made, or is refused. `code` is stable, no content is quoted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class LotDigest(StrEnum):
    """The digest of the whole signature."""

    SHA256 = "sha256"
    SHA1 = "sha1"

    @property
    def digest_uri(self) -> str:
        """The XML Signature name of the digest."""
        return f"{DS}sha1" if self is LotDigest.SHA1 else "http://www.w3.org/2001/04/xmlenc#sha256"

    @property
    def signature_uri(self) -> str:
        """The XML Signature name of RSA with this digest."""
        return f"{DS}rsa-sha1" if self is LotDigest.SHA1 else "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"

    def digest(self, data: bytes) -> bytes:
        """The digest of `data`."""
        if self is LotDigest.SHA1:
            return hashlib.sha1(data, usedforsecurity=False).digest()
        return hashlib.sha256(data).digest()

    def algorithm(self) -> hashes.HashAlgorithm:
        """The same for `cryptography`."""
        return hashes.SHA1() if self is LotDigest.SHA1 else hashes.SHA256()  # noqa: S303 - the profile's own choice


@dataclass(frozen=True, slots=True)
class LotSignature:
    """A verified lot signature. The certificate's path is the caller's check."""

    certificate: x509.Certificate = field(repr=False)
    signed_at: datetime
    submission_set_id: str
    document_ids: tuple[str, ...]
    digest: LotDigest

    def __bool__(self) -> bool:
        raise TypeError("a lot signature has no truth value: the certificate's path has still to be checked")


def _canonical(element: Element, *, comments: bool) -> bytes:
    """Inclusive canonical form of a subtree *with* the namespaces in scope (hence the detour through bytes)."""
    try:
        root = parse_xml(to_bytes(element), XmlLimits())
        return etree.tostring(root, method="c14n", exclusive=False, with_comments=comments)
    except (XmlError, etree.C14NError):
        raise DsgError("form", "a part of the signature has no canonical form") from None


def canonical_document(content: bytes, *, comments: bool = True) -> bytes:
    """The canonical form of a whole document, with comments unless told otherwise: what the manifest's digest is made of.

    Raises DsgError(`document-xml`); a relative namespace name, too, leaves a document without a canonical form (C14N §1.3).
    """
    try:
        root = parse_xml(content)
        return etree.tostring(root.getroottree(), method="c14n", exclusive=False, with_comments=comments)
    except (XmlError, etree.C14NError):
        raise DsgError("document-xml", "a document of the lot has no canonical form") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _reference(uri: str, digest: LotDigest, value: str, *, kind: str = "", c14n: bool) -> str:
    """A ds:Reference. Attributes in the canonical order: `Type` before `URI`."""
    typed = f' Type="{kind}"' if kind else ""
    transform = f'<ds:Transforms><ds:Transform Algorithm="{C14N_COMMENTS}"></ds:Transform></ds:Transforms>'
    return (
        f'<ds:Reference{typed} URI="{escaped_attribute(uri)}">{transform if c14n else ""}'
        f'<ds:DigestMethod Algorithm="{digest.digest_uri}"></ds:DigestMethod>'
        f"<ds:DigestValue>{value}</ds:DigestValue></ds:Reference>"
    )


def _signed_properties(chain: Sequence[x509.Certificate], at: datetime, digest: LotDigest) -> str:
    """xades:SignedProperties: the time and the certificates."""
    listed = "".join(
        # XAdES 1.1.1 has its own DigestMethod and DigestValue, in its own namespace.
        f'<xades:Cert><xades:CertDigest><xades:DigestMethod Algorithm="{digest.digest_uri}"></xades:DigestMethod>'
        f"<xades:DigestValue>{_b64(digest.digest(octets_of(certificate)))}</xades:DigestValue>"
        "</xades:CertDigest><xades:IssuerSerial>"
        f"<ds:X509IssuerName>{escaped(issuer_of(certificate))}</ds:X509IssuerName>"
        f"<ds:X509SerialNumber>{certificate.serial_number}</ds:X509SerialNumber></xades:IssuerSerial></xades:Cert>"
        for certificate in chain
    )
    return (
        f'<xades:SignedProperties Id="{_PROPERTIES_ID}"><xades:SignedSignatureProperties>'
        f"<xades:SigningTime>{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}</xades:SigningTime>"
        f"<xades:SigningCertificate>{listed}</xades:SigningCertificate><xades:SignaturePolicyIdentifier>"
        "<xades:SignaturePolicyImplied></xades:SignaturePolicyImplied></xades:SignaturePolicyIdentifier>"
        "</xades:SignedSignatureProperties><xades:SignedDataObjectProperties></xades:SignedDataObjectProperties>"
        "</xades:SignedProperties>"
    )


def _alone(part: str, **namespaces: str) -> bytes:
    """The canonical form of a part that was written canonical: the namespaces in scope come down to its first tag."""
    name = _TAG.match(part)
    end = name.end() if name is not None else 0
    declared = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in sorted(namespaces.items()))
    return f"{part[:end]}{declared}{part[end:]}".encode()


def build_lot_signature(
    documents: Sequence[tuple[str, bytes]],
    *,
    submission_set_id: str,
    key: rsa.RSAPrivateKey,
    chain: Sequence[x509.Certificate],
    at: datetime,
    digest: LotDigest = LotDigest.SHA256,
    signature_id: str = "Signature01",
) -> bytes:
    """The signature file of a lot (UTF-8 with XML declaration). `documents`: (uniqueId, exact bytes), in order.

    `chain` starts with the signing certificate. Raises DsgError(`document-xml`, `no-document`, `bad-text`).
    """
    if not documents:
        raise DsgError("no-document", "a lot has at least one document")
    try:
        return _written(documents, submission_set_id, key, chain, at, digest, escaped_attribute(signature_id))
    except XmlError as error:
        raise DsgError("bad-text", error.message) from None


def _written(
    documents: Sequence[tuple[str, bytes]],
    submission_set_id: str,
    key: rsa.RSAPrivateKey,
    chain: Sequence[x509.Certificate],
    at: datetime,
    digest: LotDigest,
    name: str,
) -> bytes:
    references = [_reference(f"urn:oid:{submission_set_id}", digest, "AA==", c14n=False)]
    for unique_id, content in documents:
        value = _b64(digest.digest(canonical_document(content)))
        references.append(_reference(f"urn:oid:{unique_id}", digest, value, c14n=True))
    manifest = f'<ds:Manifest Id="{_MANIFEST_ID}">{"".join(references)}</ds:Manifest>'
    properties = _signed_properties(chain, at, digest)
    signed = (
        (_MANIFEST_ID, MANIFEST_TYPE, _alone(manifest, ds=DS)),
        (_PROPERTIES_ID, PROPERTIES_TYPE, _alone(properties, ds=DS, xades=XADES)),
    )
    parts = "".join(
        _reference(f"#{identifier}", digest, _b64(digest.digest(form)), kind=kind, c14n=True)
        for identifier, kind, form in signed
    )
    info = (
        f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N_COMMENTS}"></ds:CanonicalizationMethod>'
        f'<ds:SignatureMethod Algorithm="{digest.signature_uri}"></ds:SignatureMethod>{parts}</ds:SignedInfo>'
    )
    value = _b64(key.sign(_alone(info, ds=DS), padding.PKCS1v15(), digest.algorithm()))
    certificates = "".join(f"<ds:X509Certificate>{base64_of(item)}</ds:X509Certificate>" for item in chain)
    return (
        f"<?xml version='1.0' encoding='UTF-8'?>\n<ds:Signature xmlns:ds=\"{DS}\" Id=\"{name}\">{info}"
        f"<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo>"
        f'<ds:Object><ds:SignatureProperties><ds:SignatureProperty Id="purposeOfSignature" Target="#{name}">'
        f"{SOURCE_PURPOSE}</ds:SignatureProperty></ds:SignatureProperties></ds:Object>"
        f'<ds:Object>{manifest}</ds:Object><ds:Object><xades:QualifyingProperties xmlns:xades="{XADES}" Target="#{name}">'
        f"{properties}</xades:QualifyingProperties></ds:Object></ds:Signature>"
    ).encode()


def _decode(element: Element | None) -> bytes:
    try:
        return base64.b64decode("".join(text_of(element).split()), validate=True)
    except (binascii.Error, ValueError):
        raise DsgError("form", "a value is not base64") from None


def _algorithm(element: Element | None, accepted: frozenset[LotDigest], *, signature: bool = False) -> LotDigest:
    uri = "" if element is None else element.get("Algorithm") or ""
    for digest in accepted:
        if uri == (digest.signature_uri if signature else digest.digest_uri):
            return digest
    raise DsgError("algorithm", "an algorithm is not accepted")


def _with_comments(uri: str) -> bool:
    if uri not in (C14N, C14N_COMMENTS):
        raise DsgError("algorithm", "a canonicalisation is not accepted")
    return uri == C14N_COMMENTS


def _transform(reference: Element) -> bool | None:
    """Comments kept or not, or None without a transform. Anything but canonical XML 1.0 is refused."""
    transforms = reference.findall("ds:Transforms/ds:Transform", _NS)
    if not transforms:
        return None
    if len(transforms) > 1 or len(transforms[0]):
        raise DsgError("algorithm", "a transform is not accepted")
    return _with_comments(transforms[0].get("Algorithm") or "")


def _check_signed_info(root: Element, certificate: x509.Certificate, accepted: frozenset[LotDigest]) -> LotDigest:
    info = root.find("ds:SignedInfo", _NS)
    public = public_key_of(certificate)
    if info is None or not isinstance(public, rsa.RSAPublicKey):
        raise DsgError("form", "no SignedInfo, or not an RSA certificate")
    method = info.find("ds:CanonicalizationMethod", _NS)
    comments = _with_comments("" if method is None else method.get("Algorithm") or "")
    digest = _algorithm(info.find("ds:SignatureMethod", _NS), accepted, signature=True)
    try:
        public.verify(
            _decode(root.find("ds:SignatureValue", _NS)),
            _canonical(info, comments=comments),
            padding.PKCS1v15(),
            digest.algorithm(),
        )
    except InvalidSignature:
        raise DsgError("signature", "the signature is not valid") from None
    return digest


def _target(root: Element, identifier: str, tag: str) -> Element:
    """The one element with this Id, of this kind (a copy elsewhere must not be the one that is read)."""
    found = cast("list[Element]", _NAMED(root, name=identifier))
    if len(found) != 1 or found[0].tag != tag:
        raise DsgError("form", "a signed element is missing, or given twice")
    return found[0]


def _check_references(root: Element, accepted: frozenset[LotDigest]) -> tuple[Element, Element]:
    expected = {f"#{_MANIFEST_ID}": (_MANIFEST_ID, f"{{{DS}}}Manifest")}
    expected[f"#{_PROPERTIES_ID}"] = (_PROPERTIES_ID, f"{{{XADES}}}SignedProperties")
    references = root.findall("ds:SignedInfo/ds:Reference", _NS)
    if sorted(item.get("URI") or "" for item in references) != sorted(expected):
        raise DsgError("references", "the manifest and the signed properties, and nothing else, must be signed")
    found: dict[str, Element] = {}
    for reference in references:
        identifier, tag = expected[reference.get("URI") or ""]
        target = _target(root, identifier, tag)
        digest = _algorithm(reference.find("ds:DigestMethod", _NS), accepted)
        # Same-document references by bare name have no comments unless a transform says otherwise (XMLDSig §4.4.3.3);
        # the profile's transform, applied to such a node set, finds none either: both readings are tried.
        comments = _transform(reference)
        claimed = _decode(reference.find("ds:DigestValue", _NS))
        readings = (True, False) if comments else (False,)
        if not any(bytes_eq(claimed, digest.digest(_canonical(target, comments=keep))) for keep in readings):
            raise DsgError("digest", "a signed element was changed")
        found[identifier] = target
    return found[_MANIFEST_ID], found[_PROPERTIES_ID]


def _check_manifest(
    manifest: Element, documents: Mapping[str, bytes], submission_set_id: str, accepted: frozenset[LotDigest]
) -> tuple[str, ...]:
    listed: list[str] = []
    lot_seen = False
    for reference in manifest.findall("ds:Reference", _NS):
        unique_id = (reference.get("URI") or "").removeprefix("urn:oid:")
        if unique_id == submission_set_id and not lot_seen:
            lot_seen = True
            continue
        if unique_id not in documents or unique_id in listed:
            raise DsgError("manifest", "the manifest names a document that is not in the lot, or twice")
        digest = _algorithm(reference.find("ds:DigestMethod", _NS), accepted)
        content = documents[unique_id]
        comments = _transform(reference)
        if comments is not None:
            content = canonical_document(content, comments=comments)
        if not bytes_eq(_decode(reference.find("ds:DigestValue", _NS)), digest.digest(content)):
            raise DsgError("document-digest", "a document of the lot is not the signed one")
        listed.append(unique_id)
    if not lot_seen or set(listed) != set(documents):
        raise DsgError("manifest", "the manifest does not name the lot and all its documents")
    return tuple(listed)


def verify_lot_signature(
    signature: bytes, documents: Mapping[str, bytes], *, submission_set_id: str, allow_sha1: bool = False
) -> LotSignature:
    """Verifies a lot signature against the documents of the lot (uniqueId → exact bytes, without the signature itself).

    The certificate comes from the signature: the caller must check its path. Raises DsgError: `xml-*`, `form`,
    `certificate`, `algorithm`, `signature`, `references`, `digest`, `manifest`, `document-digest`, `document-xml`,
    `signing-certificate`, `signing-time`.
    """
    accepted = frozenset(LotDigest) if allow_sha1 else frozenset({LotDigest.SHA256})
    try:
        root = parse_xml(signature, _LIMITS)
    except XmlError as error:
        raise DsgError(error.code, error.message) from None
    if root.tag != f"{{{DS}}}Signature":
        raise DsgError("form", "not a signature")
    try:
        found = root.find("ds:KeyInfo/ds:X509Data/ds:X509Certificate", _NS)
        certificate = certificate_of(_decode(found))
    except ValueError:
        raise DsgError("certificate", "no readable signing certificate") from None
    digest = _check_signed_info(root, certificate, accepted)
    manifest, properties = _check_references(root, accepted)
    listed = _check_manifest(manifest, documents, submission_set_id, accepted)
    signed_at = _check_properties(properties, certificate, accepted)
    return LotSignature(certificate, signed_at, submission_set_id, listed, digest)


def _check_properties(properties: Element, certificate: x509.Certificate, accepted: frozenset[LotDigest]) -> datetime:
    """The signing certificate is the announced one (no swap under the same key), and the time is readable."""
    method = properties.find(".//x:SigningCertificate/x:Cert/x:CertDigest/x:DigestMethod", _NS)
    digest = _algorithm(method, accepted)
    claimed = _decode(properties.find(".//x:SigningCertificate/x:Cert/x:CertDigest/x:DigestValue", _NS))
    if not bytes_eq(claimed, digest.digest(octets_of(certificate))):
        raise DsgError("signing-certificate", "the signing certificate is not the announced one")
    try:
        moment = datetime.fromisoformat(text_of(properties.find(".//x:SigningTime", _NS)))
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise DsgError("signing-time", "unreadable signing time") from None
