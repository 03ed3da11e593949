"""The lot signature: xmlsec1 agrees on SignedInfo, and a lot that is not the signed one is refused."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from lxml import etree

from ihe import DsgError, LotDigest, build_lot_signature, verify_lot_signature
from tests.ihe.support import AT, report, signer

LOT = "1.2.250.1.999.1.1.20001.7.1"
FIRST, SECOND = "1.2.250.1.999.1.1.20001.3.1", "1.2.250.1.999.1.1.20001.3.2"


def documents() -> dict[str, bytes]:
    commented = report(2).replace(b"<realmCode", b"<!-- remarque --><?note x?><realmCode", 1)
    return {FIRST: report(1), SECOND: commented}


def signature(digest: LotDigest = LotDigest.SHA256) -> bytes:
    key, certificate = signer()
    return build_lot_signature(
        list(documents().items()), submission_set_id=LOT, key=key, chain=[certificate], at=AT, digest=digest
    )


def refusal(data: bytes, content: dict[str, bytes] | None = None, lot: str = LOT) -> str:
    with pytest.raises(DsgError) as error:
        verify_lot_signature(data, documents() if content is None else content, submission_set_id=lot)
    return error.value.code


def test_a_lot_is_verified() -> None:
    found = verify_lot_signature(signature(), documents(), submission_set_id=LOT)
    assert found.document_ids == (FIRST, SECOND) and found.signed_at == AT
    assert isinstance(found.certificate, x509.Certificate) and found.digest is LotDigest.SHA256
    with pytest.raises(TypeError):
        bool(found)


def test_the_submission_set_is_a_placeholder() -> None:
    assert b"urn:oid:" + LOT.encode() in signature() and b">AA==<" in signature()


def test_it_is_written_in_canonical_form() -> None:
    """What is digested as it was written is what any canonicalisation of the file gives."""
    key, certificate = odd_signer()
    made = build_lot_signature(
        [("1.2.3", report(1))],
        submission_set_id='1.2&<3>"4',
        key=key,
        chain=[certificate, signer()[1]],
        at=AT,
        signature_id='S&<"1',
    )
    root = etree.fromstring(made)
    assert etree.tostring(root, method="c14n", with_comments=True) == made.partition(b"\n")[2]
    assert verify_lot_signature(made, {"1.2.3": report(1)}, submission_set_id='1.2&<3>"4').certificate == certificate
    with pytest.raises(DsgError) as error:
        build_lot_signature([("1.2.\x00", report(1))], submission_set_id=LOT, key=key, chain=[certificate], at=AT)
    assert error.value.code == "bad-text"


def odd_signer() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A certificate whose names hold what XML escapes."""
    key, _ = signer()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'Hôpital "A" & <B> ]]>')])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, AT - timedelta(days=1), AT + timedelta(days=1))
    return key, builder.sign(key, hashes.SHA256())


def test_sha1_is_made_on_demand_and_refused_by_default() -> None:
    old = signature(LotDigest.SHA1)
    assert refusal(old) == "algorithm"
    found = verify_lot_signature(old, documents(), submission_set_id=LOT, allow_sha1=True)
    assert found.digest is LotDigest.SHA1


def test_xmlsec1_agrees_on_the_signed_references(tmp_path: Path) -> None:
    (tmp_path / "lot.xml").write_bytes(signature())
    (tmp_path / "signer.pem").write_bytes(signer()[1].public_bytes(Encoding.PEM))
    # xmlsec1 cannot dereference `urn:oid:`: it checks SignedInfo, the manifest's own digests are ours to check.
    command = [
        "xmlsec1",
        "--verify",
        "--ignore-manifests",
        "--id-attr:Id",
        "http://www.w3.org/2000/09/xmldsig#:Manifest",
    ]
    command += ["--id-attr:Id", "http://uri.etsi.org/01903/v1.1.1#:SignedProperties"]
    command += ["--trusted-pem", str(tmp_path / "signer.pem")]
    command += ["--verification-gmt-time", AT.strftime("%Y-%m-%d %H:%M:%S"), str(tmp_path / "lot.xml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0 and "2/2" in result.stderr, result.stderr


def test_a_changed_missing_or_added_document_is_seen() -> None:
    lot = documents()
    assert refusal(signature(), {**lot, FIRST: lot[FIRST].replace(b"HOPITAL", b"CLINIQUE")}) == "document-digest"
    assert refusal(signature(), {FIRST: lot[FIRST]}) == "manifest"
    assert refusal(signature(), {**lot, "1.2.3": lot[FIRST]}) == "manifest"
    assert refusal(signature(), {FIRST: lot[SECOND], SECOND: lot[FIRST]}) == "document-digest"
    assert refusal(signature(), lot="1.2.3") == "manifest"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((FIRST.encode(), b"1.2.250.1.999.1.1.20001.3.9"), "digest"),
        ((b"2026-03-01T10:00:00Z", b"2026-03-02T10:00:00Z"), "digest"),
        ((b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"), "signature"),
        ((b'URI="#IHEManifest"', b'URI="#other"'), "signature"),
        ((b'Id="IHEManifest"', b'Id="other"'), "form"),
        ((b"xmldsig-more#rsa-sha256", b"xmldsig-more#hmac-sha256"), "algorithm"),
        ((b"</ds:X509Certificate>", b"!</ds:X509Certificate>"), "form"),
        ((b"<ds:Signature ", b"<ds:Other "), "xml-syntax"),
    ],
)
def test_tampering_is_seen(change: tuple[bytes, bytes], code: str) -> None:
    data = signature()
    assert change[0] in data
    assert refusal(data.replace(change[0], change[1], 1)) == code


def test_a_second_manifest_is_refused() -> None:
    data = signature().replace(
        b"</ds:Signature>", b'<ds:Object><ds:Manifest Id="IHEManifest"/></ds:Object></ds:Signature>'
    )
    assert refusal(data) == "form"


def test_an_empty_lot_or_a_document_that_is_not_xml_is_not_signed() -> None:
    key, certificate = signer()
    for content in ([], [("1.2.3", b"not xml")]):
        with pytest.raises(DsgError):
            build_lot_signature(content, submission_set_id=LOT, key=key, chain=[certificate], at=AT)


def test_a_document_without_canonical_form_is_refused_by_name() -> None:
    odd = report(1).replace(b"<ClinicalDocument", b'<ClinicalDocument xmlns:odd="relative"', 1)
    assert b"xmlns:odd" in odd
    key, certificate = signer()
    with pytest.raises(DsgError) as error:
        build_lot_signature([(FIRST, odd)], submission_set_id=LOT, key=key, chain=[certificate], at=AT)
    assert error.value.code == "document-xml"
    assert refusal(signature(), documents() | {FIRST: odd}) == "document-xml"
    inside = signature().replace(b"<ds:SignedInfo", b'<ds:SignedInfo xmlns:odd="relative"', 1)
    assert refusal(inside) == "form"
