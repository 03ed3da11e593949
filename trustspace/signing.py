"""Writing and signing a white list with the structure and the habits of the published one (mssante.md §1.1, §1.2).

Invariants: enveloped XMLDSig as last child of the root, exclusive canonicalisation, RSA-SHA256, one reference with
URI "", the leaf certificate alone in KeyInfo. The base64 texts are wrapped with carriage returns, as the real
producer's are, so that our own reader meets that habit every day.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.algorithms import (
    CanonicalizationMethod,
    DigestAlgorithm,
    SignatureConstructionMethod,
    SignatureMethod,
)
from signxml.signer import XMLSigner

from trustspace.model import ListedDomain

LIST_NAMESPACE = "https://listeblanche.mssante.fr/schema"
DS_NAMESPACE = "http://www.w3.org/2000/09/xmldsig#"
# lxml takes None for "no prefix"; its type stubs do not know.
_UNPREFIXED_LIST: Any = {None: LIST_NAMESPACE}
_UNPREFIXED_SIGNATURE: Any = {None: DS_NAMESPACE}
_DATE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def sign_white_list(
    entries: Sequence[ListedDomain], *, at: datetime, key: rsa.RSAPrivateKey, certificate: x509.Certificate
) -> bytes:
    """The signed XML file for `entries`, dated `at` (aware). Raises ValueError for characters XML cannot hold."""
    signer = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=SignatureMethod.RSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    signer.namespaces = _UNPREFIXED_SIGNATURE
    pem_text = certificate.public_bytes(Encoding.PEM).decode("ascii")
    # signxml builds the unprefixed Signature outside any namespace and only serialises it right: read it again.
    signed = etree.fromstring(etree.tostring(signer.sign(_document(entries, at), key=key, cert=pem_text)))
    for name in ("SignatureValue", "X509Certificate"):
        for element in signed.iter(f"{{{DS_NAMESPACE}}}{name}"):
            element.text = _wrapped(element.text or "")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + etree.tostring(signed, encoding="UTF-8", xml_declaration=False)


def _document(entries: Sequence[ListedDomain], at: datetime) -> etree._Element:
    root = etree.Element(f"{{{LIST_NAMESPACE}}}ListeBlancheMSSante", nsmap=_UNPREFIXED_LIST)
    _child(root, "DateDeGeneration", _date(at))
    domains = etree.SubElement(root, f"{{{LIST_NAMESPACE}}}ListeDomaines")
    for entry in entries:
        domain = etree.SubElement(domains, f"{{{LIST_NAMESPACE}}}Domaine")
        _child(domain, "Nom", entry.domain)
        _child(domain, "Description", entry.description or f"Domaine de pratique {entry.domain}")
        _child(domain, "DNCertificatOperateur", entry.operator_dn)
        _child(domain, "ResponsableContact", entry.contact or "pratique")
        _child(domain, "SupportContact", entry.support or "pratique")
        _child(domain, "DateMAJ", _date(entry.updated or at))
    etree.indent(root, space="    ")
    return root


def _child(parent: etree._Element, name: str, text: str) -> None:
    etree.SubElement(parent, f"{{{LIST_NAMESPACE}}}{name}").text = text


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_DATE_FORMAT)


def _wrapped(text: str) -> str:
    raw = base64.b64decode(re.sub(r"\s", "", text))
    encoded = base64.b64encode(raw).decode("ascii")
    return "\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
