"""Length bombs, depth, crowds: bounded time and memory, typed errors, never a part of the plain text."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

import mime
import smime
from smime import der, enveloped, enveloped_codec, judge, signed_codec
from smime.algorithms import ContentCipher
from smime.verdict import Judging, Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, path
from tests.smime.test_sign_verify import MESSAGE, SIGNED

YOU = make.ec_holder()


def bounded(work: Callable[[], object], *, seconds: float = 5, mebibytes: int = 200) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        work()
        assert time.process_time() - began < seconds
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def test_ten_thousand_recipients_are_refused_at_once() -> None:
    info = enveloped_codec.transport_info(make.rsa_holder().certificate.public_bytes(Encoding.DER), bytes(256), None)
    before, _ = enveloped_codec.write_enveloped([info] * 10_000, cipher=ContentCipher.AES256_CBC, iv=bytes(16), size=16)
    cms = before + bytes(16)

    def work() -> None:
        with pytest.raises(smime.MalformedCms):
            enveloped.decrypt(cms, [make.rsa_holder().decryptor])

    bounded(work)


def test_a_thousand_recipients_are_read() -> None:
    certificate = make.rsa_holder().certificate
    info = enveloped_codec.transport_info(certificate.public_bytes(Encoding.DER), bytes(256), None)
    before, _ = enveloped_codec.write_enveloped([info] * 1000, cipher=ContentCipher.AES256_CBC, iv=bytes(16), size=16)
    cms = before + bytes(16)

    def work() -> None:
        with pytest.raises(smime.DecryptionFailed):
            enveloped.decrypt(cms, [make.rsa_holder().decryptor])

    bounded(work)


@pytest.mark.parametrize("size", [1 << 31, 1 << 40, (1 << 48) - 1])
def test_gigabyte_lengths_cost_nothing(size: int) -> None:
    length = size.to_bytes(6, "big")
    for tag in (0x30, 0x04, 0x24, 0xA0):
        bomb = bytes((0x30, 0x86)) + length + bytes((tag, 0x86)) + length + b"x" * 50
        for wrapped in (bomb, b"\x30\x80" + bomb, der.sequence(der.oid("1.2.840.113549.1.7.3"), bomb)):

            def work(wrapped: bytes = wrapped) -> None:
                for read in (signed_codec.read_signed, enveloped_codec.read_enveloped):
                    with pytest.raises((smime.MalformedCms, smime.UnsupportedCms)):
                        read(wrapped)

            bounded(work, seconds=1, mebibytes=5)


def test_a_hundred_levels_of_messages() -> None:
    """Signed in signed in signed: the layers looked at are few, and what is deeper is told, not trusted."""
    raw = MESSAGE
    signer = make.ec_holder().signer
    for _ in range(100):
        raw = smime.sign_message(raw, signer, at=AT)

    def work() -> None:
        opened = smime.open_message(raw, [], at=AT, path=path)
        assert opened.problems == ("too-many-layers",) and len(opened.verifications) == 5
        opened.survey()
        smime.clear_entity(raw)

    bounded(work)


def test_a_hundred_levels_of_multiparts_and_forwards() -> None:
    inner = mime.leaf("text/plain", b"x")
    for level in range(100):
        inner = b"Content-Type: message/rfc822\r\n\r\n" + inner if level % 2 else mime.multipart("mixed", [inner])
    raw = mime.message([("From", "a@x.fr")], inner)
    bounded(lambda: smime.open_message(raw, [], at=AT, path=path).survey())
    bounded(lambda: smime.sign_message(raw, make.ec_holder().signer, at=AT))


def test_a_hundred_levels_of_octet_strings() -> None:
    content = der.octets(b"x")
    for _ in range(100):
        content = b"\x24\x80" + content + b"\0\0"
    encapsulated = der.sequence(der.oid("1.2.840.113549.1.7.1"), der.element(0xA0, content))
    body = der.sequence(der.integer(1), der.set_of(), encapsulated, der.set_of())
    cms = der.sequence(der.oid("1.2.840.113549.1.7.2"), der.element(0xA0, body))
    with pytest.raises(smime.MalformedCms):
        signed_codec.read_signed(cms)


def test_many_signers_over_a_large_content_are_hashed_once_each_digest() -> None:
    content = bytes(5_000_000)
    from smime import signed

    segments, _ = signed.sign(content, [make.ec_holder().signer] * 16, at=AT)
    cms = b"".join(segments)
    bounded(lambda: judge.verify(cms, content, Judging(AT, path)), seconds=2, mebibytes=30)


@settings(max_examples=60)
@given(st.integers(0, 400), st.sampled_from([ContentCipher.AES256_CBC, ContentCipher.AES256_GCM]))
def test_a_cut_envelope_gives_no_part_of_the_text(kept: int, cipher: smime.ContentCipher) -> None:
    raw = smime.encrypt_message(MESSAGE, [YOU.certificate], cipher=cipher)
    body = mime.parse(raw).body_start
    cut = raw[: body + kept]
    opened = smime.open_message(cut, [YOU.decryptor], at=AT, path=path)
    assert not opened.opened and b"sultat" not in opened.content and opened.content == cut


LEAVES = st.builds(
    lambda kind, content: mime.leaf(kind, content),
    st.sampled_from(["text/plain", "text/html", "application/pdf", "image/png"]),
    st.binary(max_size=300),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        mime.multipart, st.sampled_from(["mixed", "alternative", "related"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)
RAW_LEAVES = st.builds(
    lambda head, body: b"Content-Type: text/plain" + head + b"\r\n\r\n" + body,
    st.sampled_from(
        [b"", b"; charset=utf-8\r\nContent-Transfer-Encoding: 8bit", b"\r\nContent-Transfer-Encoding: binary"]
    ),
    st.binary(max_size=1500),
)


@settings(max_examples=60)
@given(st.one_of(TREES, RAW_LEAVES), st.booleans(), st.sampled_from(smime.EncryptionPolicy().ciphers))
def test_any_tree_comes_through(entity: bytes, opaque: bool, cipher: smime.ContentCipher) -> None:
    """verify∘sign = valid, decrypt∘encrypt = identity, for any MIME tree; leaves keep their content."""
    raw = mime.message([("From", "medecin@test.mssante.fr"), ("Subject", "x")], entity)
    signed = smime.sign_message(raw, make.ec_holder().signer, at=AT, opaque=opaque, protect=smime.HeaderMode.CLEAR)
    sealed = smime.encrypt_message(signed, [YOU.certificate], cipher=cipher)
    opened = smime.open_message(sealed, [YOU.decryptor], at=AT, path=path)
    (found,) = opened.verifications
    assert (found.verdict, found.findings.sender) == (Verdict.VALID, smime.Finding.GOOD)
    before, after = mime.parse(signed), mime.parse(opened.content)
    assert after.body(opened.content) == before.body(signed)
    clear = smime.clear_entity(opened.content)
    kept = [part.decoded(clear) for part in mime.parse(clear).walk() if not part.children]
    given_leaves = [part.decoded(raw) for part in mime.parse(raw).walk() if not part.children]
    assert [mime.to_crlf(one) for one in kept] == [mime.to_crlf(one) for one in given_leaves]


@settings(max_examples=200)
@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 7))
def test_any_flipped_bit_of_a_message_never_leaves_another_content_valid(place: int, bit: int) -> None:
    """Outside what is signed a bit may change (a field, a boundary's blank); the octets said to be covered never do."""
    changed = bytearray(SIGNED)
    changed[place] ^= 1 << bit
    opened = smime.open_message(bytes(changed), [], at=AT, path=path)
    original = mime.parse(SIGNED).children[0].raw(SIGNED)
    for one in opened.verifications:
        if one.verdict is Verdict.VALID:
            (span,) = [span for span in opened.coverage if span.layer == one.layer]
            assert opened.content[span.start : span.end] == original
