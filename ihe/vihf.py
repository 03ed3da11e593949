"""The VIHF: the signed SAML 2.0 assertion that says, to the record, who deposits what for which patient (dmp.md §2). The public
face of the codec: `build_vihf` writes one, `verify_vihf` verifies one.

Verifying: exactly one signature, in its place, over the whole assertion, with the one form of transforms and canonicalisation that
the profile knows; every value is read from the bytes that the signature covers, never from those around them. The
certificate's path is the caller's check.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.constant_time import bytes_eq
from lxml import etree

from ihe.certificates import certificate_of_base64, public_key_of, relative_names_of
from ihe.datatypes import parse_cx
from ihe.values import Code
from ihe.vihf_model import (
    CONFIDENTIALITY,
    DS,
    ENVELOPED,
    EXC_C14N,
    HL7,
    PURPOSE_OF_USE,
    RESOURCE_ID,
    RSA_SHA256,
    SAML,
    SHA256,
    SUBJECT_ID,
    SUBJECT_ROLE,
    Vihf,
    VihfContent,
    VihfError,
    VihfSettings,
    exclusive,
)
from ihe.vihf_write import build_vihf
from ihe.xml import Element, XmlError, XmlLimits, parse_xml, text_of

_SIGNATURES: dict[str, hashes.HashAlgorithm] = {
    RSA_SHA256: hashes.SHA256(),
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384": hashes.SHA384(),
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512": hashes.SHA512(),
}
_DIGESTS = {
    SHA256: hashlib.sha256,
    "http://www.w3.org/2001/04/xmldsig-more#sha384": hashlib.sha384,
    "http://www.w3.org/2001/04/xmlenc#sha512": hashlib.sha512,
}
_S = {"s": SAML, "ds": DS}
_LIMITS = XmlLimits(size=256 * 1024, depth=24, elements=2000)
_MAX_PREFIXES = 20
_NAMED = etree.XPath("count(//@*[(name()='ID' or name()='Id' or name()='id') and .=$name])")


def _refuse(code: str, french: str, english: str) -> VihfError:
    return VihfError(code, french, english)


def _signature_of(root: Element) -> Element:
    """The one signature, where it must be, over the one assertion: every form of wrapping stops here."""
    wrapped = _refuse("signature-place", "signature du VIHF absente ou mal placée", "no signature, or not in its place")
    if root.tag != f"{{{SAML}}}Assertion":
        raise _refuse("not-an-assertion", "le VIHF n'est pas une assertion SAML", "not a SAML assertion")
    children = [item for item in root if isinstance(item.tag, str)]
    signatures = list(root.iter(f"{{{DS}}}Signature"))
    expected_place = len(children) > 1 and children[0].tag == f"{{{SAML}}}Issuer" and signatures == [children[1]]
    if not expected_place or len(list(root.iter(f"{{{SAML}}}Assertion"))) != 1:
        raise wrapped
    identifier = root.get("ID") or ""
    if not identifier or _NAMED(root, name=identifier) != 1.0:
        raise wrapped
    references = signatures[0].findall("ds:SignedInfo/ds:Reference", _S)
    if len(references) != 1 or references[0].get("URI") != f"#{identifier}":
        raise wrapped
    transforms = [item.get("Algorithm") for item in references[0].findall("ds:Transforms/ds:Transform", _S)]
    if transforms != [ENVELOPED, EXC_C14N]:
        raise _refuse("transforms", "transformations de signature non admises", "signature transforms not accepted")
    return signatures[0]


def _certificate(signature: Element) -> x509.Certificate:
    found = signature.findall("ds:KeyInfo/ds:X509Data/ds:X509Certificate", _S)
    refused = _refuse("certificate", "certificat du VIHF absent ou illisible", "no readable signing certificate")
    if not found:
        raise refused
    try:
        return certificate_of_base64(text_of(found[0]))
    except ValueError:
        raise refused from None


def _method(element: Element | None) -> tuple[str, tuple[str, ...]]:
    """The algorithm of a method or transform, and the prefixes of its `InclusiveNamespaces`; nothing else may be in it."""
    if element is None:
        return "", ()
    prefixes: tuple[str, ...] = ()
    for child in element:
        if child.tag != f"{{{EXC_C14N}}}InclusiveNamespaces" or prefixes:
            return "", ()
        # An empty list says nothing; more names than this, no assertion has.
        prefixes = tuple((child.get("PrefixList") or "").split()[:_MAX_PREFIXES])
    return element.get("Algorithm") or "", prefixes


def _decoded(element: Element | None) -> bytes:
    try:
        return base64.b64decode("".join(text_of(element).split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _check_signature_value(info: Element, signature: Element, certificate: x509.Certificate) -> bool:
    """RSA over the exclusive canonical form of SignedInfo, by the key of the certificate."""
    form, prefixes = _method(info.find("ds:CanonicalizationMethod", _S))
    algorithm = _SIGNATURES.get(_method(info.find("ds:SignatureMethod", _S))[0])
    public = public_key_of(certificate)
    if form != EXC_C14N or algorithm is None or not isinstance(public, rsa.RSAPublicKey):
        return False
    value = _decoded(signature.find("ds:SignatureValue", _S))
    try:
        public.verify(value, exclusive(info, prefixes), padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


def _verified(root: Element, signature: Element, certificate: x509.Certificate) -> Element:
    """The signed element itself, rebuilt from what the digest covers. `_signature_of` has settled the form before."""
    refused = _refuse("signature", "la signature du VIHF est invalide", "the signature is not valid")
    infos = signature.findall("ds:SignedInfo", _S)
    if len(infos) != 1 or len(signature.findall("ds:SignatureValue", _S)) != 1:
        raise refused
    try:
        if not _check_signature_value(infos[0], signature, certificate):
            raise refused
        digest = _DIGESTS.get(_method(infos[0].find("ds:Reference/ds:DigestMethod", _S))[0])
        claimed = _decoded(infos[0].find("ds:Reference/ds:DigestValue", _S))
        _, prefixes = _method(infos[0].findall("ds:Reference/ds:Transforms/ds:Transform", _S)[1])
        issuer = signature.getprevious()
        if digest is None or issuer is None:
            raise refused
        # The enveloped transform takes the element away, not the text after it.
        issuer.tail = (issuer.tail or "") + (signature.tail or "")
        root.remove(signature)
        covered = exclusive(root, prefixes)
    except (etree.LxmlError, ValueError):
        raise refused from None
    if not bytes_eq(digest(covered).digest(), claimed):
        raise refused
    return parse_xml(covered, _LIMITS)


def _moment(value: str | None, code: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value or "")
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refuse(code, "date illisible dans le VIHF", "unreadable instant") from None


def _check_window(signed: Element, issued: datetime, at: datetime, max_age: timedelta, skew: timedelta) -> None:
    expired = _refuse("expired", "le VIHF n'est pas ou plus valable à cet instant", "outside the validity window")
    if issued > at + skew or issued < at - max_age - skew:
        raise expired
    for conditions in signed.findall("s:Conditions", _S):
        not_before, not_after = conditions.get("NotBefore"), conditions.get("NotOnOrAfter")
        if not_before and _moment(not_before, "conditions") > at + skew:
            raise expired
        if not_after and _moment(not_after, "conditions") <= at - skew:
            raise expired


def _attributes(signed: Element) -> dict[str, list[Element]]:
    """Attribute values by lower-case name: `Authentification_mode` and `…_Mode` are one (dmp.md §13)."""
    found: dict[str, list[Element]] = {}
    for node in signed.findall("s:AttributeStatement/s:Attribute", _S):
        name = (node.get("Name") or "").lower()
        if name in found:
            raise _refuse("attribute-twice", "attribut du VIHF en double", "an attribute is given twice")
        found[name] = node.findall("s:AttributeValue", _S)
    return found


def _one(attributes: dict[str, list[Element]], name: str, *, required: bool = True) -> str:
    values = attributes.get(name.lower(), [])
    value = text_of(values[0]) if len(values) == 1 else ""
    if required and not value:
        raise _refuse("attribute-missing", "attribut obligatoire du VIHF absent", "a mandatory attribute is missing")
    return value


def _codes(attributes: dict[str, list[Element]], name: str, tag: str) -> tuple[Code, ...]:
    codes = []
    for value in attributes.get(name.lower(), []):
        element = value.find(f"{{{HL7}}}{tag}")
        if element is None or not element.get("code"):
            raise _refuse("attribute-form", "valeur codée illisible dans le VIHF", "an unreadable coded value")
        codes.append(Code(element.get("code") or "", element.get("codeSystem") or "", element.get("displayName") or ""))
    if not codes:
        raise _refuse("attribute-missing", "attribut obligatoire du VIHF absent", "a mandatory attribute is missing")
    return tuple(codes)


def _names_certificate(issuer: str, certificate: x509.Certificate) -> bool:
    """True when Issuer is the subject of the certificate, in either order of the RDNs (dmp.md §2)."""
    subject = relative_names_of(certificate)
    compact = ",".join(piece.strip() for piece in issuer.split(","))
    return compact in (
        ",".join(piece.strip() for piece in ",".join(order).split(",")) for order in (subject, subject[::-1])
    )


def verify_vihf(
    assertion: bytes,
    *,
    at: datetime,
    max_age: timedelta = timedelta(minutes=10),
    skew: timedelta = timedelta(minutes=2),
) -> Vihf:
    """Verifies the signature, the form and the age of an assertion; returns only what is signed.

    The certificate comes from the assertion: **the caller must check its path** before relying on anything.
    Raises VihfError: `xml-*`, `not-an-assertion`, `signature-place`, `transforms`, `certificate`, `signature`, `issuer`,
    `expired`, `issue-instant`, `authn-instant`, `attribute-*`, `patient`.
    """
    try:
        root = parse_xml(assertion, _LIMITS)
    except XmlError as error:
        raise _refuse(error.code, "le VIHF n'est pas lisible", error.message) from None
    signature = _signature_of(root)
    certificate = _certificate(signature)
    signed = _verified(root, signature, certificate)
    issued = _moment(signed.get("IssueInstant"), "issue-instant")
    _check_window(signed, issued, at, max_age, skew)
    issuer = text_of(signed.find("s:Issuer", _S))
    if not _names_certificate(issuer, certificate):
        raise _refuse("issuer", "l'émetteur du VIHF n'est pas le titulaire du certificat", "Issuer is not the signer")
    return _read(signed, certificate, issuer, issued)


def _read(signed: Element, certificate: x509.Certificate, issuer: str, issued: datetime) -> Vihf:
    attributes = _attributes(signed)
    patient = parse_cx(_one(attributes, RESOURCE_ID))
    if patient is None:
        raise _refuse("patient", "identité du patient illisible dans le VIHF", "unreadable resource-id")
    authn = signed.find("s:AuthnStatement", _S)
    name_id = text_of(signed.find("s:Subject/s:NameID", _S))
    if not name_id:
        raise _refuse("attribute-missing", "identifiant de l'acteur absent du VIHF", "NameID is missing")
    return Vihf(
        assertion_id=signed.get("ID") or "",
        issuer=issuer,
        issued_at=issued,
        authenticated_at=_moment(None if authn is None else authn.get("AuthnInstant"), "authn-instant"),
        authn_context=text_of(signed.find("s:AuthnStatement/s:AuthnContext/s:AuthnContextClassRef", _S)),
        name_id=name_id,
        subject_name=_one(attributes, SUBJECT_ID),
        roles=_codes(attributes, SUBJECT_ROLE, "Role"),
        structure_id=_one(attributes, "Identifiant_Structure"),
        sector=_one(attributes, "Secteur_Activite").partition("^")[0],
        patient=patient,
        resource_urn=_one(attributes, "Ressource_URN"),
        purpose=_codes(attributes, PURPOSE_OF_USE, "PurposeOfUse")[0],
        mode=_one(attributes, "Authentification_Mode"),
        version=_one(attributes, "VIHF_Version"),
        invisible_to_guardians=_one(attributes, CONFIDENTIALITY, required=False) == "INVISIBLE_REPRESENTANTS_LEGAUX",
        software_name=_one(attributes, "LPS_Nom"),
        software_version=_one(attributes, "LPS_Version"),
        homologation_id=_one(attributes, "LPS_ID_HOMOLOGATION_DMP"),
        certificate=certificate,
    )


__all__ = ["Vihf", "VihfContent", "VihfError", "VihfSettings", "build_vihf", "verify_vihf"]
