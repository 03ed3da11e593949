"""The outer shape of a white list file: bounded, entity-free XML with one plain enveloped signature.

Invariants: this module refuses every construction that a signature wrapping attack needs, before any cryptography:
a second signature, a signature elsewhere than last under the root, another reference, transform or algorithm, a key
given otherwise than by one certificate.
"""

from __future__ import annotations

import base64
import re
from enum import StrEnum

from cryptography import x509
from lxml import etree

from trustspace.model import TrustSpaceError
from trustspace.signing import DS_NAMESPACE, LIST_NAMESPACE

MAX_LIST_SIZE = 32 * 1024 * 1024
"""Octets. The real list was 3.7 MB in February 2025, and grows by a third a year (mssante.md §1.3)."""
MAX_TAGS = 2_000_000
"""Marks `<` in the file: what bounds the memory of its tree. The real list has 14 an entry, some 91,000."""
_EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
_SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


class ListRefusal(StrEnum):
    """Why a white list is refused; stable names for alarms."""

    TOO_LARGE = "TOO_LARGE"
    NOT_XML = "NOT_XML"
    WRONG_ROOT = "WRONG_ROOT"
    UNSIGNED = "UNSIGNED"
    SIGNATURE_SHAPE = "SIGNATURE_SHAPE"
    SIGNER = "SIGNER"
    SIGNER_UNTRUSTED = "SIGNER_UNTRUSTED"
    SIGNER_REVOKED = "SIGNER_REVOKED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    STRUCTURE = "STRUCTURE"
    ROLLED_BACK = "ROLLED_BACK"
    FROM_THE_FUTURE = "FROM_THE_FUTURE"
    UNREADABLE = "UNREADABLE"


class WhiteListRefused(TrustSpaceError):
    """The list must not be used. `code` says why; the text adds a word in English and quotes nothing of the file."""

    def __init__(self, code: ListRefusal, detail: str) -> None:
        """`detail` is for people; `code` for machines."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def ns(name: str) -> str:
    """The Clark name of an element of the list's own namespace."""
    return f"{{{LIST_NAMESPACE}}}{name}"


def parse_bounded(xml: bytes) -> etree._Element:
    """Parse without entities, DTD or network. Raises WhiteListRefused for what is not a white list at first sight."""
    if len(xml) > MAX_LIST_SIZE:
        raise WhiteListRefused(ListRefusal.TOO_LARGE, "the file is too large")
    if xml.count(b"<") > MAX_TAGS:
        raise WhiteListRefused(ListRefusal.TOO_LARGE, "the file has too many elements")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        root = etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise WhiteListRefused(ListRefusal.NOT_XML, "the file is not well-formed XML") from error
    information = root.getroottree().docinfo
    # "XML 1.0 UTF-8" (mssante.md §1.1): another encoding only serves to read one thing and count another.
    if (information.encoding or "UTF-8").upper() not in {"UTF-8", "US-ASCII", "ASCII"} or b"\0" in xml:
        raise WhiteListRefused(ListRefusal.NOT_XML, "the file is not in UTF-8")
    if information.internalDTD is not None or information.externalDTD is not None:
        raise WhiteListRefused(ListRefusal.NOT_XML, "the file has a document type declaration")
    if root.tag != ns("ListeBlancheMSSante"):
        raise WhiteListRefused(ListRefusal.WRONG_ROOT, "the file is not a white list")
    return root


def check_shape(root: etree._Element) -> x509.Certificate:
    """The signer's certificate, of a root that has one plain enveloped signature as last child. Raises otherwise."""
    signatures = list(root.iter(_ds("Signature")))
    if not signatures:
        raise WhiteListRefused(ListRefusal.UNSIGNED, "the list is not signed")
    if len(signatures) > 1:
        raise _misshapen("more than one signature")
    signature = signatures[0]
    if signature.getparent() is not root or root[-1] is not signature:
        raise _misshapen("the signature is not the last child of the root")
    info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    method, algorithm, reference = _children(info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _expect(method, _EXC_C14N)
    _expect(algorithm, _RSA_SHA256)
    if reference.items() != [("URI", "")]:
        raise _misshapen("the reference is not to the whole document")
    transforms, digest_method, digest = _children(reference, "Transforms", "DigestMethod", "DigestValue")
    enveloped, canonical = _children(transforms, "Transform", "Transform")
    _expect(enveloped, _ENVELOPED)
    _expect(canonical, _EXC_C14N)
    _expect(digest_method, _SHA256)
    (data,) = _children(key_info, "X509Data")
    (holder,) = _children(data, "X509Certificate")
    if leaf_text(value) is None or leaf_text(digest) is None:
        raise _misshapen("a value has content that is not text")
    return _certificate(leaf_text(holder) or "")


def leaf_text(element: etree._Element) -> str | None:
    """The stripped text of an element that holds text only; None when it holds anything else.

    Comments and processing instructions count: one of them inside a name would let two readers see two names.
    """
    return None if len(element) else (element.text or "").strip()


def _children(parent: etree._Element, *names: str) -> list[etree._Element]:
    """The children of a signature element, which must be exactly these, in this order."""
    children = list(parent)
    if [child.tag for child in children] != [_ds(name) for name in names]:
        raise _misshapen(f"unexpected content in {etree.QName(parent).localname}")
    return children


def _expect(element: etree._Element, algorithm: str) -> None:
    if element.items() != [("Algorithm", algorithm)] or len(element):
        raise _misshapen(f"unexpected algorithm in {etree.QName(element).localname}")


def _certificate(text: str) -> x509.Certificate:
    # The real producer leaves a carriage return before each line feed of its base64 (mssante.md §1.1).
    compact = re.sub(r"\s", "", text)
    if _NOT_BASE64.search(compact):
        raise _misshapen("the certificate is not base64")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(compact, validate=True))
        _ = (certificate.subject, certificate.issuer)  # read on demand: now
        return certificate
    except ValueError as error:
        raise _misshapen("the certificate cannot be read") from error


def _ds(name: str) -> str:
    return f"{{{DS_NAMESPACE}}}{name}"


def _misshapen(detail: str) -> WhiteListRefused:
    return WhiteListRefused(ListRefusal.SIGNATURE_SHAPE, detail)
