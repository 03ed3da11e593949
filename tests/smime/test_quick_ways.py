"""The quick ways (docs/adr/0040) never answer otherwise than the general ones: moulds, frames, plain envelopes, glances."""

from __future__ import annotations

import base64
import hashlib
import random
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

import mime
import smime
from mime import words
from smime import attributes, ber, der, enveloped_codec, frames, layers, signed, signed_codec, template
from smime.algorithms import Mechanism
from tests.smime import certificates as make
from tests.smime.support import encrypt_cms, sign_cms

AT = make.AT
CONTENT = b"Content-Type: text/plain\r\n\r\nBonjour\r\n"
HOLDERS = {
    "rsa": make.rsa_holder(),
    "pss": make.rsa_holder(),
    "ecdsa": make.ec_holder(),
    "ed25519": make.ed25519_holder(),
}
FITTING = [
    (holder, mechanism)
    for family, holder in HOLDERS.items()
    for mechanism in smime.mechanisms_of(holder.certificate)
    if mechanism.family == family
]


@pytest.mark.parametrize(("holder", "mechanism"), FITTING)
def test_a_mould_writes_what_the_general_writer_writes(holder: make.Holder, mechanism: Mechanism) -> None:
    for moment in (AT, datetime(2000, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, 999, tzinfo=UTC)):
        lines, digests = signed.sign_lines((CONTENT,), (holder.signer, mechanism), at=moment)
        cms = base64.b64decode(lines)
        assert lines == mime.base64_lines(cms) and digests == (mechanism.digest,)
        record = signed_codec.read_signed(cms)
        chain = [one.public_bytes(Encoding.DER) for one in holder.chain]
        digest = hashlib.new(mechanism.digest, CONTENT).digest()
        to_sign = attributes.write(digest, chain[0], hashlib.sha256(chain[0]).digest(), moment)
        assert record.signers[0].signed == to_sign
        info = signed_codec.signer_info(chain[0], mechanism, to_sign, record.signers[0].signature)
        general = signed_codec.write_signed(certificates=chain, digests=[mechanism.digest], signers=[info])
        assert cms == b"".join(general)


def test_a_moment_beyond_utc_time_is_written_by_the_general_writer() -> None:
    for year, tag in ((2050, 0x18), (1999, 0x17)):
        moment = datetime(year, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert template.utc_time(moment) is None
        cms = base64.b64decode(signed.sign_lines((CONTENT,), HOLDERS["rsa"].signer, at=moment)[0])
        assert der.time(moment) in cms and der.time(moment)[0] == tag
        assert signed_codec.read_signed(cms).signers[0].attributes.signing_time == moment


def test_moulds_belong_to_one_chain_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_MOULDS", 4)
    for number in range(12):
        holder = (make.rsa_holder(), make.other_holder(), make.ec_holder())[number % 3]
        chain = (*holder.chain,)
        found = template.mould(chain, None)
        assert found.chain is chain and found.encoded[0] == holder.certificate.public_bytes(Encoding.DER)
        assert len(template._moulds) <= 4


def signatures(count: int) -> list[bytes]:
    """Detached signatures of one correspondent over other contents at other moments."""
    signer = HOLDERS["rsa"].signer
    return [sign_cms(CONTENT + bytes([n]), signer, at=AT + timedelta(minutes=n)) for n in range(count)]


def test_a_frame_gives_the_record_of_the_general_reader() -> None:
    frames._frames.clear()
    for cms in signatures(5):
        assert same(frames.read_signed(cms), signed_codec.read_signed(cms))
    assert sum(map(len, frames._frames.values())) == 1


def same(one: signed_codec.SignedRecord, other: signed_codec.SignedRecord) -> bool:
    return one == other


@given(st.integers(0, 2**32))
def test_a_changed_signature_is_never_read_otherwise(seed: int) -> None:
    """One octet changed anywhere, with the frame of the unchanged one at hand."""
    first, second = signatures(2)
    frames._frames.clear()
    frames.read_signed(first)
    changed = bytearray(second)
    changed[seed % len(changed)] ^= 1 + (seed >> 16) % 255
    try:
        expected = signed_codec.read_signed(bytes(changed))
    except smime.SmimeError:
        with pytest.raises(smime.SmimeError):
            frames.read_signed(bytes(changed))
    else:
        assert frames.read_signed(bytes(changed)) == expected


def test_octets_that_look_like_the_digest_elsewhere_cannot_take_its_place() -> None:
    """An unknown attribute, before the true ones, that holds a whole message-digest and signing-time attribute."""
    holder = HOLDERS["rsa"]
    own = holder.certificate.public_bytes(Encoding.DER)
    for number in range(3):
        digest = hashlib.sha256(CONTENT).digest()
        true = attributes.write(digest, own, hashlib.sha256(own).digest(), AT)
        items = [true[one[1] : one[3]] for one in ber.children(true, ber.only(true), 64)]
        lie = attributes.digest_head(32) + bytes([number]) * 32 + attributes.TIME_HEAD + b"26010100000%dZ" % number
        decoy = der.sequence(der.oid("1.2.3.4"), der.set_of(der.octets(lie)))
        to_sign = der.set_of(*items, decoy)
        signature = holder.signer.sign(hashlib.sha256(to_sign).digest(), Mechanism.RSA_PKCS1_SHA256)
        info = signed_codec.signer_info(own, Mechanism.RSA_PKCS1_SHA256, to_sign, signature)
        cms = b"".join(signed_codec.write_signed(certificates=[own], digests=["sha256"], signers=[info]))
        read = frames.read_signed(cms)
        assert read == signed_codec.read_signed(cms)
        assert read.signers[0].attributes.message_digest == digest and read.signers[0].attributes.signing_time == AT


def test_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAMES", 32)
    frames._frames.clear()
    signer = HOLDERS["rsa"].signer
    for length in range(12):
        cms = b"".join(
            signed_codec.write_signed(
                certificates=[bytes([0x30, length]) + bytes(length)],
                digests=["sha256"],
                signers=[signed_info(signer, length)],
            )
        )
        frames.read_signed(cms)
        assert sum(map(len, frames._frames.values())) <= 32


def signed_info(signer: smime.SoftwareSigner, number: int) -> bytes:
    own = signer.chain[0].public_bytes(Encoding.DER)
    to_sign = attributes.write(bytes([number] * 32), own, bytes(32), AT)
    return signed_codec.signer_info(own, Mechanism.RSA_PKCS1_SHA256, to_sign, bytes(256))


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_a_plain_envelope_is_read_as_the_general_reader_reads_it(seed: int, changes: int) -> None:
    cms = bytearray(ENVELOPE)
    chance = random.Random(seed)
    for _ in range(changes):
        place = chance.randrange(min(len(cms), 700))
        if chance.random() < 0.7:
            cms[place] = chance.choice((cms[place] ^ 1, 0x30, 0x80, 0x81, 0x82, 0x04, 0x24, 0xA0, 0x02, 0, 255))
        elif chance.random() < 0.5:
            del cms[place]
        else:
            cms.insert(place, chance.randrange(256))
    data = bytes(cms)
    quick = enveloped_codec.read_plain(data)
    if quick is not None:
        assert quick == ber.reading(data, enveloped_codec.read_any)


ENVELOPE = encrypt_cms(CONTENT, [make.rsa_holder().certificate, make.other_holder().certificate])


def test_the_quick_reader_is_the_one_that_reads_what_we_and_openssl_write() -> None:
    record = enveloped_codec.read_plain(ENVELOPE)
    assert record is not None and len(record.recipients) == 2
    assert enveloped_codec.read_plain(encrypt_cms(CONTENT, [make.ec_holder().certificate])) is None


TYPES = st.sampled_from(
    ["text/plain", "Multipart/Signed", "application/pkcs7-mime", "application/x-pkcs7-mime", "application/octet-stream"]
) | st.sampled_from(
    [
        "multipart/mixed",
        "application/pkcs7-signature",
        "",
        "text",
        "a/b/c",
        "multipart/signed (x)",
        "text/plain\r\n ;x=y",
    ]
)
LINES = st.builds(
    lambda name, gap, value, end: (name + gap + ":" + value + end).encode("utf-8"),
    st.sampled_from(
        ["Content-Type", "content-type", "Content-Transfer-Encoding", "MIME-Version", "Subject", "Content-", "x y"]
    ),
    st.sampled_from(["", " ", "\t"]),
    st.builds(
        lambda space, value, rest: space + value + rest,
        st.sampled_from(["", " ", "\r\n ", "\t"]),
        TYPES | st.sampled_from(["base64", "BASE64 ", "7bit", "é", "base64\r\n x"]),
        st.sampled_from(["", "; a=b", ';\r\n protocol="application/pkcs7-signature"', "; name=smime.p7m", " (c)"]),
    ),
    st.sampled_from(["\r\n", "\n"]),
)


@given(st.lists(LINES, max_size=5), st.booleans(), st.sampled_from([ENVELOPE, b"", b"0\x80"]))
def test_a_glance_sees_the_layer_that_a_full_reading_sees(lines: list[bytes], blank: bool, cms: bytes) -> None:
    raw = b"".join(lines) + (b"\r\n" if blank else b"") + mime.base64_lines(cms)
    root = mime.parse(raw, max_depth=1)
    assert layers.outermost(raw) == layers.layer_of(raw, root)
    last, body = mime.header_end(raw)
    fields = list(mime.iter_fields(raw, 0, last))
    inside = [one for one in fields if layers.is_content_field(one.name)]
    found = mime.content_fields(raw, 0, last)
    assert [(start, end) for _, start, _, end in found] == [(one.start, one.end) for one in inside]
    for wanted in ("subject", "content-type"):
        assert mime.values_of(raw[:last], wanted) == [one.text for one in fields if one.name.lower() == wanted]
    assert body == root.body_start


WORDS = st.sampled_from(
    ["multipart/signed", "boundary", "BOUNDARY", "x=_y", "micalg=sha-256", "boundary*0=x", "a", "é"]
)
SIGNS = st.sampled_from([";", "; ", "=", "(", ")", "\\", " ", "'", '"', '; boundary="=_ab"', '; a="b;c"'])
PIECES = st.lists(WORDS | SIGNS, max_size=12).map("".join)


@given(PIECES)
@example('; boundary="=_ab";boundary*0=x')
@example('; boundary="=_ab"; a="b;c"boundary*0=x')
@example("x; boundary=\"=_ab\"; BOUNDARY*=utf-8''y")
def test_parameters_with_a_boundary_are_those_of_the_slow_reading(value: str) -> None:
    assert mime.split_parameters(value) == words._split_parameters(value)
    assert mime.split_parameters(value) == words._split_parameters(value)  # now remembered


@given(
    st.lists(st.sampled_from([b"QUJD", b"QQ==", b"Qg", b"=", b"\r\n", b" ", b"\xff", b"_", b"A", b"QUI="]), max_size=12)
)
def test_base64_is_read_tolerantly(pieces: list[bytes]) -> None:
    """Other characters are skipped, the first padding ends it, a cut tail is dropped."""
    data = b"".join(pieces)
    assert words.decode_base64(b"!!" + data + b"??", 2, 2 + len(data)) == words._decode_cut_base64(data)


def test_what_is_remembered_cannot_be_changed_by_a_caller() -> None:
    first = mime.split_parameters("text/plain; charset=utf-8")[1]
    first["charset"] = "changed"
    assert mime.split_parameters("text/plain; charset=utf-8")[1] == {"charset": "utf-8"}
    people = mime.addresses("A <a@x.fr>")
    people.clear()
    assert mime.addresses("A <a@x.fr>") == [("A", "a@x.fr")]


def test_a_signer_that_does_not_fit_is_refused_in_the_quick_way_too() -> None:
    wrongs: list[signed.Signing | list[smime.Signer]] = [(HOLDERS["rsa"].signer, Mechanism.ECDSA_SHA256), []]
    for wrong in wrongs:
        with pytest.raises(smime.UnsuitableCertificate):
            signed.sign_lines((CONTENT,), wrong, at=AT)
        with pytest.raises(smime.UnsuitableCertificate):
            signed.sign(CONTENT, wrong, at=AT)
