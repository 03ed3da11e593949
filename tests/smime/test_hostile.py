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
from smime import asn1, ber, der, enveloped_codec, signed_codec
from smime.attributes import write as signed_attributes
from smime.verdict import Reason, Verdict
from tests.smime.certificates import AT, path, rsa_holder
from tests.smime.support import verify_cms, write_enveloped, write_signed
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
    for read in (signed_codec.read_signed, enveloped_codec.read_enveloped):
        with pytest.raises((smime.MalformedCms, smime.UnsupportedCms)):
            read(data)
    (verification,) = verify_cms(data, b"x", at=AT, path=path)
    assert verification.verdict is Verdict.INVALID
    raw = mime.leaf("application/pkcs7-mime", data)
    holder = rsa_holder()
    opened = smime.open_message(raw, [holder.decryptor], at=AT, path=path)
    assert not opened.opened and all(item.verdict is Verdict.INVALID for item in opened.verifications)
    assert time.process_time() - started < 3


@given(st.binary(max_size=300))
def test_any_bytes_give_typed_errors(data: bytes) -> None:
    with contextlib.suppress(smime.MalformedCms):
        ber.check(data)
    with contextlib.suppress(smime.SmimeError):
        signed_codec.read_signed(data)
    with contextlib.suppress(smime.SmimeError):
        enveloped_codec.read_enveloped(data)


@given(st.sampled_from([SIGNATURE, CMS]), st.data())
def test_mangled_structures_give_typed_errors(cms: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(cms)))
    stop = data.draw(st.integers(start, min(len(cms), start + 40)))
    mangled = cms[:start] + data.draw(st.binary(max_size=20)) + cms[stop:]
    for verification in verify_cms(mangled, CONTENT, at=AT, path=path):
        assert isinstance(verification.verdict, Verdict)
    for read in (signed_codec.read_signed, enveloped_codec.read_enveloped):
        with contextlib.suppress(smime.SmimeError):
            read(mangled)


def test_too_many_of_anything() -> None:
    record = enveloped_codec.read_enveloped(CMS)
    der = rsa_holder().certificate.public_bytes(Encoding.DER)
    many = write_enveloped(
        [(der, record.recipients[0].encrypted_key, None)] * 1001,
        iv=record.iv,
        ciphertext=b"x" * 16,
    )
    with pytest.raises(smime.MalformedCms):
        enveloped_codec.read_enveloped(many)
    attributes = signed_attributes(bytes(32), der, bytes(32), AT)
    crowd = write_signed(
        certificates=[der] * 65,
        attributes=attributes,
        signature=b"x",
    )
    with pytest.raises(smime.MalformedCms):
        signed_codec.read_signed(crowd)


SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples" / "rfc4134"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the RFC 4134 samples are not beside the repository")
def test_the_old_examples_are_read_and_never_valid() -> None:
    """SHA-1, DSA and triple DES: the structures are read, a modern policy accepts none of them."""
    verdicts: dict[str, list[str]] = {}
    rsa = verify_cms((SAMPLES / "4.2.bin").read_bytes(), None, at=AT, path=path)
    assert Reason.WEAK_DIGEST in rsa[0].reasons and Reason.WEAK_KEY in rsa[0].reasons
    assert Reason.SIGNATURE not in rsa[0].reasons  # a public vector whose RSA signature is right
    for file in sorted(SAMPLES.glob("4.*.bin")):
        with contextlib.suppress(smime.SmimeError):
            record = signed_codec.read_signed(file.read_bytes())
            content = None if record.content is not None else os.urandom(8)
            found = verify_cms(file.read_bytes(), content, at=AT, path=path)
            verdicts[file.stem] = [item.verdict.value for item in found]
    assert len(verdicts) >= 6
    assert all(verdict != "valid" for found in verdicts.values() for verdict in found)


def indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, 0x80)) + b"".join(contents) + b"\0\0"


DATA_OID = der.oid("1.2.840.113549.1.7.1")
SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))


def signed_data(*fields: bytes) -> bytes:
    return der.sequence(SIGNED_OID, der.element(0xA0, der.sequence(der.integer(1), *fields)))


def test_content_in_very_many_pieces_is_joined_in_linear_time() -> None:
    pieces = indefinite(0x24, indefinite(0x24, der.octets(b"first")), *[der.octets(b"x" * 25)] * 200_000)
    content = der.sequence(DATA_OID, indefinite(0xA0, pieces))
    began = time.process_time()
    record = signed_codec.read_signed(signed_data(der.set_of(SHA256), content, der.set_of()))
    assert record.content is not None and b"".join(record.content) == b"first" + b"x" * 5_000_000
    assert time.process_time() - began < 15  # under one here; 25 and more when every piece copied all before it


def test_a_piece_of_another_type_is_refused() -> None:
    content = der.sequence(DATA_OID, indefinite(0xA0, indefinite(0x24, der.integer(5))))
    with pytest.raises(smime.MalformedCms):
        signed_codec.read_signed(signed_data(der.set_of(SHA256), content, der.set_of()))


def test_digest_algorithms_and_certificates_are_bounded() -> None:
    many = der.element(0x31, *[SHA256] * (signed_codec.MAX_SIGNERS + 1))
    with pytest.raises(smime.MalformedCms, match="too many elements"):
        signed_codec.read_signed(signed_data(many, der.sequence(DATA_OID), der.set_of()))
    huge = der.element(0xA0, der.sequence(der.sequence(der.octets(b"x" * asn1.MAX_CERTIFICATE_SIZE))))
    with pytest.raises(smime.MalformedCms, match="too long"):
        signed_codec.read_signed(signed_data(der.set_of(SHA256), der.sequence(DATA_OID), huge, der.set_of()))


def test_a_cut_authenticated_envelope_is_a_closed_envelope_not_a_broken_signature() -> None:
    """A message under one is told as closed, and no signature is invented."""
    cms = der.sequence(der.oid("1.2.840.113549.1.9.16.1.23"), der.element(0xA0, der.sequence(der.integer(0))))
    opened = smime.open_message(mime.leaf("application/pkcs7-mime", cms), (), at=AT, path=path)
    assert (opened.encrypted, opened.opened, opened.verifications) == (True, False, ())
    assert opened.problems == ("malformed-cms",)
