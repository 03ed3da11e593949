"""The VIHF: the signed SAML 2.0 assertion that says, to the record, who deposits what for which patient (dmp.md §2).

Building: indirect authentication (the structure's certificate), enveloped signature right after Issuer, RSA-SHA256 and
exclusive canonicalisation. Verifying: exactly one signature, in its place, over the whole assertion; every value is read
from the element that the signature covers, never from the bytes around it. The certificate's path is the caller's check.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
from signxml.exceptions import InvalidInput, InvalidSignature
from signxml.signer import XMLSigner
from signxml.verifier import SignatureConfiguration, XMLVerifier

from ihe.datatypes import parse_cx, patient_id
from ihe.values import Code, Identifier
from ihe.xml import XSI, Element, XmlError, XmlLimits, is_xml_text, new_element, parse_xml, text_of, to_bytes

# signxml writes what it canonicalises, the patient's identifier with it, at DEBUG: no level may show it (DESIGN, promises).
logging.getLogger("signxml").setLevel(logging.CRITICAL)

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
DS = "http://www.w3.org/2000/09/xmldsig#"
HL7 = "urn:hl7-org:v3"
EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"

SUBJECT_ID = "urn:oasis:names:tc:xspa:1.0:subject:subject-id"
SUBJECT_ROLE = "urn:oasis:names:tc:xacml:2.0:subject:role"
RESOURCE_ID = "urn:oasis:names:tc:xacml:2.0:resource:resource-id"
PURPOSE_OF_USE = "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse"
CONFIDENTIALITY = "urn:oasis:names:tc:xspa:1.0:resource:patient:hl7:confidentiality-code"
TLS_CLIENT = "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient"
SECTOR_SYSTEM = "1.2.250.1.71.4.2.4"
NORMAL_USE = Code("normal", "1.2.250.1.213.1.1.4.248", "Accès normal")

_S = {"s": SAML, "ds": DS}
_LIMITS = XmlLimits(size=256 * 1024, depth=24, elements=2000)


class VihfError(Exception):
    """The assertion is refused. `code` is stable, the two texts carry no data of the patient."""

    def __init__(self, code: str, french: str, english: str) -> None:
        super().__init__(f"{code}: {english}")
        self.code = code
        self.french = french
        self.english = english


@dataclass(frozen=True, slots=True)
class VihfSettings:
    """What the sources disagree on, or what belongs to the software (dmp.md §2, §13)."""

    version: str = "3.0"
    mode_attribute: str = "Authentification_Mode"
    mode: str = "INDIRECTE"
    software_name: str = "Caducee"
    software_version: str = "0.1"
    software_id: str = ""
    homologation_id: str = "TEST-HOMOL-0000"
    authn_context: str = TLS_CLIENT


@dataclass(frozen=True, slots=True)
class VihfContent:
    """Who acts, for which structure, about which patient.

    `name_id`: PS_IdNat of the person (or of the person responsible for the processing); `roles`: profession (G15), then
    the speciality for physicians and pharmacists; `sector`: `SAxx`.
    """

    name_id: str
    subject_name: str
    roles: tuple[Code, ...]
    structure_id: str
    sector: str
    ins: str = field(repr=False)
    ins_oid: str
    authenticated_at: datetime
    purpose: Code = NORMAL_USE
    invisible_to_guardians: bool = False


@dataclass(frozen=True, slots=True)
class Vihf:
    """A verified assertion: only signed values. `certificate` signed it; its path has still to be checked."""

    assertion_id: str
    issuer: str
    issued_at: datetime
    authenticated_at: datetime
    authn_context: str
    name_id: str
    subject_name: str
    roles: tuple[Code, ...]
    structure_id: str
    sector: str
    patient: Identifier = field(repr=False)
    resource_urn: str
    purpose: Code
    mode: str
    version: str
    invisible_to_guardians: bool
    software_name: str
    software_version: str
    homologation_id: str
    certificate: x509.Certificate = field(repr=False)

    def __bool__(self) -> bool:
        raise TypeError("a VIHF has no truth value: the certificate's path has still to be checked")


def _instant(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("an aware datetime is needed")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _sub(parent: Element, name: str, text: str = "", **attributes: str) -> Element:
    if not all(is_xml_text(value) for value in (text, *attributes.values())):
        raise VihfError("bad-text", "caractère interdit dans le VIHF", "a value holds characters that XML cannot carry")
    node = etree.SubElement(parent, f"{{{SAML}}}{name}", attributes)
    if text:
        node.text = text
    return node


def _attribute(statement: Element, name: str, *values: str) -> None:
    node = _sub(statement, "Attribute", Name=name)
    for value in values:
        _sub(node, "AttributeValue", value)


def _coded(statement: Element, name: str, tag: str, codes: Sequence[Code]) -> None:
    node = _sub(statement, "Attribute", Name=name)
    for code in codes:
        value = _sub(node, "AttributeValue")
        element = new_element(f"{{{HL7}}}{tag}", {}, {None: HL7})
        value.append(element)
        element.set(f"{{{XSI}}}type", "CE")
        element.set("code", code.code)
        element.set("codeSystem", code.system)
        if code.display:
            element.set("displayName", code.display)


def _unsigned(content: VihfContent, issuer: str, assertion_id: str, at: datetime, settings: VihfSettings) -> Element:
    root = etree.Element(
        f"{{{SAML}}}Assertion",
        {"ID": assertion_id, "IssueInstant": _instant(at), "Version": "2.0"},
        nsmap={"saml2": SAML, "xsi": XSI},
    )
    _sub(root, "Issuer", issuer, Format="urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName")
    # signxml puts the signature where it finds this mark; the SAML schema wants it right after Issuer.
    etree.SubElement(root, f"{{{DS}}}Signature", {"Id": "placeholder"}, nsmap={"ds": DS})
    _sub(_sub(root, "Subject"), "NameID", content.name_id)
    authn = _sub(root, "AuthnStatement", AuthnInstant=_instant(content.authenticated_at))
    _sub(_sub(authn, "AuthnContext"), "AuthnContextClassRef", settings.authn_context)
    statement = _sub(root, "AttributeStatement")
    _attribute(statement, "VIHF_Version", settings.version)
    _attribute(statement, settings.mode_attribute, settings.mode)
    _attribute(statement, "Identifiant_Structure", content.structure_id)
    _attribute(statement, "Secteur_Activite", f"{content.sector}^{SECTOR_SYSTEM}")
    _attribute(statement, SUBJECT_ID, content.subject_name)
    _coded(statement, SUBJECT_ROLE, "Role", content.roles)
    _attribute(statement, RESOURCE_ID, patient_id(content.ins, content.ins_oid))
    _attribute(statement, "Ressource_URN", "urn:dmp")
    _coded(statement, PURPOSE_OF_USE, "PurposeOfUse", (content.purpose,))
    if content.invisible_to_guardians:
        _attribute(statement, CONFIDENTIALITY, "INVISIBLE_REPRESENTANTS_LEGAUX")
    if settings.software_id:
        _attribute(statement, "LPS_ID", settings.software_id)
    _attribute(statement, "LPS_Nom", settings.software_name)
    _attribute(statement, "LPS_Version", settings.software_version)
    _attribute(statement, "LPS_ID_HOMOLOGATION_DMP", settings.homologation_id)
    return root


def build_vihf(
    content: VihfContent,
    *,
    key: rsa.RSAPrivateKey,
    chain: Sequence[x509.Certificate],
    assertion_id: str,
    at: datetime,
    settings: VihfSettings | None = None,
) -> bytes:
    """A signed assertion (UTF-8, no XML declaration). `chain` starts with the signing certificate, whose subject is the
    Issuer; `assertion_id` is an XML ID, for example `_` and a UUID. Raises VihfError(`bad-text`, `no-role`).
    """
    if not content.roles:
        raise VihfError("no-role", "aucune profession ni spécialité dans le VIHF", "at least one role is needed")
    issuer = chain[0].subject.rfc4514_string()
    root = _unsigned(content, issuer, assertion_id, at, settings or VihfSettings())
    signer = XMLSigner(
        signature_algorithm=SignatureMethod.RSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    signed = signer.sign(root, key=key, cert=[chain[0]], reference_uri=assertion_id, id_attribute="ID")
    return to_bytes(signed)


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
    identifiers = [item.get(name) for item in root.iter() for name in ("ID", "Id", "id") if isinstance(item.tag, str)]
    if not identifier or identifiers.count(identifier) != 1:
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
    pem = "-----BEGIN CERTIFICATE-----\n" + "".join(text_of(found[0]).split()) + "\n-----END CERTIFICATE-----\n"
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        raise refused from None


def _verified(root: Element, certificate: x509.Certificate) -> Element:
    """The signed element itself, rebuilt from what the digest covers."""
    configuration = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset(
            {SignatureMethod.RSA_SHA256, SignatureMethod.RSA_SHA384, SignatureMethod.RSA_SHA512}
        ),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256, DigestAlgorithm.SHA384, DigestAlgorithm.SHA512}),
        default_reference_c14n_method=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    try:
        result = XMLVerifier().verify(root, x509_cert=certificate, id_attribute="ID", expect_config=configuration)
    except (InvalidSignature, InvalidInput, ValueError, TypeError, KeyError, etree.LxmlError):
        raise _refuse("signature", "la signature du VIHF est invalide", "the signature is not valid") from None
    signed = result[0].signed_xml if isinstance(result, list) else result.signed_xml
    if signed is None or signed.tag != f"{{{SAML}}}Assertion" or signed.get("ID") != root.get("ID"):
        raise _refuse("signature", "la signature du VIHF ne couvre pas l'assertion", "another element is signed")
    return signed


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
    subject = [rdn.rfc4514_string() for rdn in certificate.subject.rdns]
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
    certificate = _certificate(_signature_of(root))
    signed = _verified(root, certificate)
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
