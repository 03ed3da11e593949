"""Writing a VIHF: indirect authentication (the structure's certificate), enveloped signature right after Issuer, RSA-SHA256 and
exclusive canonicalisation. The assertion is written in canonical form from the start: what is digested is its own text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

from ihe.certificates import base64_of, subject_of
from ihe.datatypes import patient_id
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
    SECTOR_SYSTEM,
    SHA256,
    SUBJECT_ID,
    SUBJECT_ROLE,
    VihfContent,
    VihfError,
    VihfSettings,
    exclusive,
)
from ihe.xml import XSI, Element, is_xml_text, new_element

# In canonical form as it stands: what is signed is this text itself.
_SIGNED_INFO = (
    f'<ds:SignedInfo xmlns:ds="{DS}"><ds:CanonicalizationMethod Algorithm="{EXC_C14N}"></ds:CanonicalizationMethod>'
    f'<ds:SignatureMethod Algorithm="{RSA_SHA256}"></ds:SignatureMethod><ds:Reference URI="#{{id}}"><ds:Transforms>'
    f'<ds:Transform Algorithm="{ENVELOPED}"></ds:Transform><ds:Transform Algorithm="{EXC_C14N}"></ds:Transform>'
    f'</ds:Transforms><ds:DigestMethod Algorithm="{SHA256}"></ds:DigestMethod>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
)
_SIGNATURE = (
    f'<ds:Signature xmlns:ds="{DS}">{{info}}<ds:SignatureValue>{{value}}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>'
    "<ds:X509Certificate>{certificate}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></ds:Signature>"
)
_ISSUER_END = b"</saml2:Issuer>"
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")


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
    if _ID.fullmatch(assertion_id) is None:
        raise VihfError("bad-text", "identifiant de VIHF inutilisable", "the assertion id is not an XML ID")
    issuer = subject_of(chain[0])
    canonical = exclusive(_unsigned(content, issuer, assertion_id, at, settings or VihfSettings()))
    info = _SIGNED_INFO.format(id=assertion_id, digest=_b64(hashlib.sha256(canonical).digest()))
    signature = _SIGNATURE.format(
        info=info,
        value=_b64(key.sign(info.encode(), padding.PKCS1v15(), hashes.SHA256())),
        certificate=base64_of(chain[0]),
    )
    # The SAML schema wants the signature right after Issuer, the first element; no value can hold the end tag unescaped.
    before, end, after = canonical.partition(_ISSUER_END)
    return before + end + signature.encode() + after


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
