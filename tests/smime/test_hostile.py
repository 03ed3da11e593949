"""Hostile CMS: typed errors, no exception of another kind, bounded time."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import mime
import smime
from smime import asn1, ber, signed
from smime.verdict import Reason, Verdict
from tests.smime.certificates import AT, path, rsa_holder
from tests.smime.test_open import CMS
from tests.smime.test_sign_verify import CONTENT, SIGNATURE

SIGNED_OID = bytes.fromhex("06092a864886f70d010702")


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x84" + size.to_bytes(4, "big")
    return bytes([tag]) + length + content


def nested(depth: int, tag: int = 0x30) -> bytes:
    data = b""
    for _ in range(depth):
        data = element(tag, data)
    return data


HOSTILE = {
    "empty": b"",
    "one octet": b"\x30",
    "huge length": b"\x30\x84\xff\xff\xff\xff",
    "length of lengths": b"\x30\xfe" + b"\xff" * 200,
    "deep definite": nested(5000),
    "deep indefinite": b"\x30\x80" * 500_000,
    "deep octet strings": b"\x24\x80" * 500_000,
    "primitive indefinite": b"\x30\x80\x04\x80\x00\x00\x00\x00",
    "many elements": element(0x30, b"\x05\x00" * 600_000),
    "stray end": b"\x00\x00",
    "long tag": b"\x3f\xff\xff\xff\xff\x7f\x00",
    "trailing": element(0x30, SIGNED_OID) + b"x",
    "no content": element(0x30, SIGNED_OID),
    "empty content": element(0x30, SIGNED_OID + element(0xA0, b"")),
    "wrong type": element(0x30, SIGNED_OID + element(0xA0, element(0x04, b"x"))),
    "child beyond parent": bytes.fromhex("30033005020101"),
    "text": b"not ASN.1 at all",
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structures(name: str) -> None:
    data = HOSTILE[name]
    started = time.process_time()
    for read in (asn1.read_signed, asn1.read_enveloped):
        with pytest.raises((smime.MalformedCms, smime.UnsupportedCms)):
            read(data)
    (verification,) = signed.verify(data, b"x", at=AT, path=path)
    assert verification.verdict is Verdict.INVALID
    raw = mime.leaf("application/pkcs7-mime", data)
    holder = rsa_holder()
    opened = smime.open_message(raw, [smime.SoftwareDecryptor(holder.rsa, holder.certificate)], at=AT, path=path)
    assert not opened.opened and all(item.verdict is Verdict.INVALID for item in opened.verifications)
    assert time.process_time() - started < 3


@given(st.binary(max_size=300))
def test_any_bytes_give_typed_errors(data: bytes) -> None:
    with contextlib.suppress(smime.MalformedCms):
        ber.check(data)
    with contextlib.suppress(smime.SmimeError):
        asn1.read_signed(data)
    with contextlib.suppress(smime.SmimeError):
        asn1.read_enveloped(data)


@given(st.sampled_from([SIGNATURE, CMS]), st.data())
def test_mangled_structures_give_typed_errors(cms: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(cms)))
    stop = data.draw(st.integers(start, min(len(cms), start + 40)))
    mangled = cms[:start] + data.draw(st.binary(max_size=20)) + cms[stop:]
    for verification in signed.verify(mangled, CONTENT, at=AT, path=path):
        assert isinstance(verification.verdict, Verdict)
    for read in (asn1.read_signed, asn1.read_enveloped):
        with contextlib.suppress(smime.SmimeError):
            read(mangled)


def test_too_many_of_anything() -> None:
    record = asn1.read_enveloped(CMS)
    der = rsa_holder().certificate.public_bytes(Encoding.DER)
    many = asn1.write_enveloped(
        [(der, record.recipients[0].encrypted_key, None)] * 1001,
        iv=record.iv,
        ciphertext=b"x" * 16,
    )
    with pytest.raises(smime.MalformedCms):
        asn1.read_enveloped(many)
    attributes = asn1.signed_attributes(bytes(32), der, bytes(32), AT)
    crowd = asn1.write_signed(
        certificates=[der] * 65,
        digest="sha256",
        attributes=attributes,
        signature_algorithm="rsassa_pkcs1v15",
        signature=b"x",
    )
    with pytest.raises(smime.MalformedCms):
        asn1.read_signed(crowd)


SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples" / "rfc4134"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the RFC 4134 samples are not beside the repository")
def test_the_old_examples_are_read_and_never_valid() -> None:
    """SHA-1, DSA and triple DES: the structures are read, a modern policy accepts none of them."""
    verdicts: dict[str, list[str]] = {}
    rsa = signed.verify((SAMPLES / "4.2.bin").read_bytes(), None, at=AT, path=path)
    assert Reason.WEAK_DIGEST in rsa[0].reasons and Reason.WEAK_KEY in rsa[0].reasons
    assert Reason.SIGNATURE not in rsa[0].reasons  # a public vector whose RSA signature is right
    for file in sorted(SAMPLES.glob("4.*.bin")):
        with contextlib.suppress(smime.SmimeError):
            record = asn1.read_signed(file.read_bytes())
            content = None if record.content is not None else os.urandom(8)
            found = signed.verify(file.read_bytes(), content, at=AT, path=path)
            verdicts[file.stem] = [item.verdict.value for item in found]
    assert len(verdicts) >= 6
    assert all(verdict != "valid" for found in verdicts.values() for verdict in found)
