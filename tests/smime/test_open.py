"""Encrypting and opening: layers, recipients, and one indistinguishable error."""

from __future__ import annotations

import contextlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import mime
import smime
from smime import enveloped, enveloped_codec
from smime.verdict import Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, Holder, path
from tests.smime.support import encrypt_cms, write_enveloped
from tests.smime.test_sign_verify import MESSAGE, SIGNED


def keys(*holders: Holder) -> list[smime.SoftwareDecryptor]:
    return [holder.decryptor for holder in holders]


def open_with(raw: bytes, *holders: Holder) -> smime.Opened:
    return smime.open_message(raw, keys(*holders), at=AT, path=path)


@pytest.mark.parametrize("transport", list(smime.Transport))
def test_signed_then_encrypted_comes_back_byte_exact(transport: smime.Transport) -> None:
    certificates = [make.other_holder().certificate, make.rsa_holder().certificate]
    raw = smime.encrypt_message(SIGNED, certificates, transport=transport)
    assert b"sultat" not in raw and mime.parse(raw).get("subject") == "sujet"
    for holder in (make.other_holder(), make.rsa_holder()):
        opened = open_with(raw, holder)
        assert (opened.encrypted, opened.opened, opened.problems) == (True, True, ())
        assert [item.verdict for item in opened.verifications] == [Verdict.VALID]
        root, original = mime.parse(opened.content), mime.parse(SIGNED)
        assert root.children[0].raw(opened.content) == original.children[0].raw(SIGNED)
        assert root.get("from") == original.get("from")
        assert smime.verify_message(opened.content, at=AT, path=path)[0].verdict is Verdict.VALID


def test_a_clear_message_comes_back_untouched() -> None:
    opened = open_with(MESSAGE, make.rsa_holder())
    assert opened.content is MESSAGE
    assert (opened.encrypted, opened.opened, opened.verifications, opened.problems) == (False, False, (), ())


def test_an_eight_bit_body_survives_encryption() -> None:
    opened = open_with(smime.encrypt_message(MESSAGE, [make.rsa_holder().certificate]), make.rsa_holder())
    assert mime.parse(opened.content).decoded(opened.content) == mime.parse(MESSAGE).decoded(MESSAGE)
    assert opened.verifications == ()


def test_a_signature_round_an_envelope_is_verified_then_taken_off() -> None:
    holder = make.rsa_holder()
    inside = smime.encrypt_message(SIGNED, [holder.certificate])
    signer = make.other_holder().signer
    raw = smime.sign_message(inside, signer, at=AT)
    opened = open_with(raw, holder)
    assert [item.verdict for item in opened.verifications] == [Verdict.VALID, Verdict.VALID]
    assert opened.opened and mime.parse(opened.content).media_type == "multipart/signed"
    shut = open_with(raw, make.other_holder())
    assert shut.content == raw and shut.problems == ("not-for-us",) and not shut.opened


def test_not_for_us() -> None:
    raw = smime.encrypt_message(MESSAGE, [make.rsa_holder().certificate])
    opened = open_with(raw, make.other_holder())
    assert (opened.content, opened.opened, opened.problems) == (raw, False, ("not-for-us",))
    assert open_with(raw).problems == ("not-for-us",)


def test_a_renewed_certificate_of_the_same_key_is_another_recipient() -> None:
    raw = smime.encrypt_message(MESSAGE, [make.rsa_holder().certificate])
    assert open_with(raw, make.issue(make.rsa_key())).problems == ("not-for-us",)


def envelope(key: bytes, *, oaep: str | None = None, ciphertext: bytes = bytes(32)) -> bytes:
    """An envelope for the RSA holder with this as encrypted key."""
    der = make.rsa_holder().certificate.public_bytes(Encoding.DER)
    return write_enveloped([(der, key, oaep)], iv=bytes(16), ciphertext=ciphertext)


def test_every_failure_of_opening_is_the_same() -> None:
    """Wrong padding, wrong key length, garbage, wrong content padding: one error, one text (no oracle)."""
    public = make.rsa_holder().rsa.public_key()
    encrypted = [
        bytes(256),
        b"\xff" * 256,
        b"short",
        os.urandom(255),
        public.encrypt(bytes(16), rsa_padding.PKCS1v15()),
        public.encrypt(bytes(32), rsa_padding.PKCS1v15()),
    ]
    said = set()
    for oaep in (None, "sha256", "sha1", "md5"):
        for key in encrypted:
            for ciphertext in (os.urandom(4096), b"", b"odd"):
                try:
                    smime.enveloped.decrypt(envelope(key, oaep=oaep, ciphertext=ciphertext), keys(make.rsa_holder()))
                except smime.DecryptionFailed as error:
                    said.add((type(error), str(error), error.__cause__))
                # One random key in 256 ends in plausible padding: garbage then comes out, as it must.
    assert said == {(smime.DecryptionFailed, "the envelope could not be opened", None)}


def test_a_good_key_behind_a_broken_copy_is_found() -> None:
    holder = make.rsa_holder()
    good = enveloped_codec.read_enveloped(encrypt_cms(b"content", [holder.certificate]))
    der = holder.certificate.public_bytes(Encoding.DER)
    cms = write_enveloped(
        [(der, b"broken", None), (der, good.recipients[0].encrypted_key, None)],
        iv=good.iv,
        ciphertext=b"".join(good.ciphertext),
    )
    assert enveloped.decrypt(cms, keys(holder)).content == b"content"


@pytest.mark.parametrize(
    "holder",
    [
        make.issue(ec.generate_private_key(ec.SECP256K1())),
        make.issue(ec.generate_private_key(ec.SECP256R1()), usage=make.key_usage(key_encipherment=True)),
        make.issue(make.rsa_key(1024)),
        make.issue(make.rsa_key(), usage=make.key_usage(digital_signature=True)),
    ],
)
def test_unsuitable_recipients(holder: Holder) -> None:
    with pytest.raises(smime.UnsuitableCertificate):
        smime.encrypt_message(MESSAGE, [make.rsa_holder().certificate, holder.certificate])


def test_no_recipient_no_envelope() -> None:
    with pytest.raises(smime.UnsuitableCertificate):
        smime.encrypt_message(MESSAGE, [])


def test_each_envelope_has_its_own_key_and_vector() -> None:
    certificate = make.rsa_holder().certificate
    one, two = (enveloped_codec.read_enveloped(encrypt_cms(b"x", [certificate, certificate])) for _ in range(2))
    assert one.iv != two.iv and one.ciphertext != two.ciphertext
    assert len(one.recipients) == 1  # the same certificate twice is one recipient


def test_layers_are_bounded() -> None:
    raw = MESSAGE
    for _ in range(6):
        raw = smime.encrypt_message(raw, [make.rsa_holder().certificate])
    opened = open_with(raw, make.rsa_holder())
    assert opened.problems == ("too-many-layers",) and not opened.opened


def test_fields_inside_an_envelope_cannot_forge_transport_fields() -> None:
    entity = b"From: chief@x.fr\r\nAuthentication-Results: forged\r\nContent-Type: text/plain\r\n\r\nhello"
    raw = b"From: evil@x.fr\r\nMIME-Version: 1.0\r\n" + smime.encrypt_entity(entity, [make.rsa_holder().certificate])
    content = open_with(raw, make.rsa_holder()).content
    assert content == b"From: evil@x.fr\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nhello"


CMS = encrypt_cms(b"Content-Type: text/plain\r\n\r\nhello", [make.rsa_holder().certificate])


@given(st.integers(0, len(CMS) - 1), st.integers(0, 255))
def test_changed_envelopes_raise_typed_errors_only(place: int, octet: int) -> None:
    changed = bytearray(CMS)
    changed[place] = octet
    with contextlib.suppress(smime.SmimeError):
        enveloped.decrypt(bytes(changed), keys(make.rsa_holder()))


def test_a_decryptor_needs_its_own_key() -> None:
    with pytest.raises(smime.UnsuitableCertificate):
        smime.SoftwareDecryptor(ec.generate_private_key(ec.SECP256R1()), make.ec_holder().certificate)
