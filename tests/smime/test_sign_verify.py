"""Signing and judging: what we make is valid, and every way to tamper with it is seen and named."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

import mime
import smime
from smime.algorithms import Mechanism
from smime.attributes import write as signed_attributes
from smime.verdict import Reason, Verdict
from tests.mime.test_tree import PIECES
from tests.smime import certificates as make
from tests.smime.certificates import AT, Holder, path
from tests.smime.support import sign_cms, verify_cms, write_signed

MESSAGE = (
    "From: Médecin <medecin@test.mssante.fr>\r\nTo: labo@test.mssante.fr\r\nSubject: sujet\r\nMIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX-MSS-NIL: 1\r\n\r\n"
    "Bonjour,\r\nrésultat à lire aujourd'hui, merci.\r\n"
).encode()


def sign(holder: Holder, raw: bytes = MESSAGE) -> bytes:
    return smime.sign_message(raw, holder.signer, at=AT)


def judge(raw: bytes) -> smime.Verification:
    (verification,) = smime.verify_message(raw, at=AT, path=path)
    return verification


def judge_cms(content: bytes, cms: bytes) -> smime.Verification:
    (verification,) = verify_cms(cms, content, at=AT, path=path)
    return verification


@pytest.mark.parametrize("holder", [make.rsa_holder(), make.ec_holder("P-256"), make.ec_holder("P-384")])
def test_what_we_sign_is_valid(holder: Holder) -> None:
    raw = sign(holder)
    verification = judge(raw)
    assert (verification.verdict, verification.reasons) == (Verdict.VALID, ())
    assert verification.addresses == ("medecin@test.mssante.fr",)
    assert verification.national_id == make.PERSON_ID
    assert verification.signed_at == AT
    assert verification.signer_certificate == holder.certificate


def test_the_fields_are_where_they_belong() -> None:
    raw = sign(make.rsa_holder())
    root = mime.parse(raw)
    assert raw.isascii() is False  # the From field is written as it came
    assert [field.name for field in root.fields] == [
        "From",
        "To",
        "Subject",
        "X-MSS-NIL",
        "MIME-Version",
        "Content-Type",
    ]
    entity = root.children[0]
    assert [field.name for field in entity.fields] == ["Content-Transfer-Encoding", "MIME-Version", "Content-Type"]
    assert entity.encoding == "quoted-printable" and entity.raw(raw).isascii()
    assert root.parameters["micalg"] == "sha-256"
    clear = smime.clear_entity(raw)
    assert mime.parse(clear).decoded(clear) == MESSAGE.split(b"\r\n\r\n", 1)[1]
    assert mime.parse(clear).get("From") == "Médecin <medecin@test.mssante.fr>"


def test_a_verification_has_no_truth_value() -> None:
    with pytest.raises(TypeError):
        bool(judge(sign(make.rsa_holder())))


def test_an_unsigned_message_has_no_verification() -> None:
    assert smime.verify_message(MESSAGE, at=AT, path=path) == ()
    assert smime.clear_entity(MESSAGE) == MESSAGE


SIGNED = sign(make.rsa_holder())
ENTITY = mime.parse(SIGNED).children[0]
SIGNATURE = mime.parse(SIGNED).children[1].decoded(SIGNED)
CONTENT = ENTITY.raw(SIGNED)


@given(st.integers(ENTITY.start, ENTITY.end - 1), st.integers(0, 7))
def test_any_flipped_bit_of_the_signed_entity_is_seen(place: int, bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[place] ^= 1 << bit
    assert all(v.verdict is Verdict.INVALID for v in smime.verify_message(bytes(changed), at=AT, path=path))
    assert smime.verify_message(bytes(changed), at=AT, path=path)


@settings(max_examples=300)
@given(st.integers(0, len(SIGNATURE) - 1), st.integers(0, 7))
def test_a_flipped_bit_of_the_signature_never_names_another_signer(place: int, bit: int) -> None:
    """Some bits (unused certificates, unsigned algorithm parameters) may change without harm; the signer never does."""
    changed = bytearray(SIGNATURE)
    changed[place] ^= 1 << bit
    for verification in verify_cms(bytes(changed), CONTENT, at=AT, path=path):
        if verification.verdict is Verdict.VALID:
            assert verification.signer_certificate == make.rsa_holder().certificate


@given(st.integers(0, len(SIGNATURE) - 1))
def test_a_cut_signature_is_malformed(length: int) -> None:
    assert judge_cms(CONTENT, SIGNATURE[:length]).reasons == (Reason.MALFORMED,)


def test_other_line_ends_are_another_content() -> None:
    assert judge(SIGNED.replace(b"\r\n", b"\n")).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"--=_", b"--=_x", 1),
        lambda raw: mime.without_fields(raw, ["MIME-Version"]).replace(
            b"application/pkcs7-signature; n", b"text/plain; n"
        ),
        lambda raw: (
            b"Content-Type: text/plain\r\n" + raw.replace(b"Content-Type: multipart", b"Content-type: multipart")
        ),
    ],
)
def test_a_broken_structure_is_never_valid(change: object) -> None:
    assert callable(change)
    assert all(v.verdict is not Verdict.VALID for v in smime.verify_message(change(SIGNED), at=AT, path=path))


def test_a_third_part_is_refused() -> None:
    root = mime.parse(SIGNED)
    parts = [part.raw(SIGNED) for part in root.children]
    raw = mime.multipart("signed", [b"\r\nadded", *parts], parameters={"protocol": "application/pkcs7-signature"})
    assert judge(raw).reasons == (Reason.STRUCTURE,)


def test_without_a_path_checker_nothing_is_valid() -> None:
    (verification,) = smime.verify_message(SIGNED, at=AT, path=None)
    assert (verification.verdict, verification.reasons) == (Verdict.UNTRUSTED, (Reason.NO_PATH_CHECKER,))


def test_the_path_checker_gets_the_other_certificates_and_its_reason_is_kept() -> None:
    seen: list[x509.Certificate] = []

    def refuse(certificate: x509.Certificate, others: object, at: object) -> make.Path:
        assert isinstance(others, list) and at == AT
        seen.extend([certificate, *others])
        return make.Path(False, "révoqué")

    (verification,) = smime.verify_message(SIGNED, at=AT, path=refuse)
    assert seen == list(make.rsa_holder().chain)
    assert (verification.verdict, verification.reasons) == (Verdict.UNTRUSTED, (Reason.PATH, "révoqué"))


@pytest.mark.parametrize(
    ("holder", "reason"),
    [
        (make.issue(make.rsa_key(), usage=make.key_usage(key_encipherment=True)), Reason.USAGE),
        (make.issue(make.rsa_key(), extended=(ExtendedKeyUsageOID.SERVER_AUTH,)), Reason.USAGE),
        (make.issue(make.rsa_key(), ca=True), Reason.CA),
        (make.issue(make.rsa_key(), ends=AT - timedelta(days=1)), Reason.NOT_IN_FORCE),
        (make.issue(make.rsa_key(), begins=AT + timedelta(days=1)), Reason.NOT_IN_FORCE),
    ],
)
def test_certificates_that_do_not_sign_mail(holder: Holder, reason: Reason) -> None:
    verification = judge(sign(holder))
    assert verification.verdict is Verdict.UNTRUSTED and reason in verification.reasons


def test_signing_time_is_checked() -> None:
    signer = make.rsa_holder().signer
    late = smime.sign_message(MESSAGE, signer, at=AT + timedelta(hours=1))
    assert judge(late).reasons == (Reason.FUTURE,)
    early = smime.sign_message(MESSAGE, signer, at=AT - timedelta(days=300))
    assert judge(early).reasons == (Reason.OUTSIDE_VALIDITY,)


def rewrite(
    *, content: bytes | None = None, certificates: list[bytes] | None = None, digest: str = "sha256", ess: bytes = b""
) -> bytes:
    """A SignedData by the RSA holder with one thing changed, correctly signed otherwise."""
    holder = make.rsa_holder()
    own = holder.certificate.public_bytes(Encoding.DER)
    attributes = signed_attributes(hashlib.sha256(CONTENT).digest(), own, ess or hashlib.sha256(own).digest(), AT)
    signer = holder.signer
    return write_signed(
        certificates=certificates or [own],
        digest=digest,
        attributes=attributes,
        signature=signer.sign(hashlib.sha256(attributes).digest(), Mechanism.RSA_PKCS1_SHA256),
        content=content,
    )


def test_the_rewriting_helper_itself_is_valid() -> None:
    assert judge_cms(CONTENT, rewrite()).verdict is Verdict.VALID


def test_content_smuggled_into_a_detached_signature() -> None:
    assert judge_cms(b"shown", rewrite(content=CONTENT)).reasons == (Reason.CONTENT_IN_DETACHED,)
    assert judge_cms(CONTENT, rewrite(content=CONTENT)).verdict is Verdict.INVALID


def test_the_signing_certificate_attribute_binds_the_certificate() -> None:
    """A twin with the same issuer, serial number and key, but another holder, cannot replace the certificate."""
    holder = make.rsa_holder()
    twin = make.issue(
        make.rsa_key(), subject=make.organisation_name(), serial=holder.certificate.serial_number
    ).certificate
    own = holder.certificate.public_bytes(Encoding.DER)
    cms = rewrite(certificates=[twin.public_bytes(Encoding.DER)])
    verification = judge_cms(CONTENT, cms)
    assert (verification.verdict, verification.signer_certificate) == (Verdict.INVALID, None)
    assert Reason.OTHER_CERTIFICATE in verification.reasons
    both = judge_cms(CONTENT, rewrite(certificates=[twin.public_bytes(Encoding.DER), own]))
    assert both.verdict is Verdict.VALID and both.signer_certificate == holder.certificate
    wrong = judge_cms(CONTENT, rewrite(ess=hashlib.sha256(twin.public_bytes(Encoding.DER)).digest()))
    assert wrong.verdict is Verdict.INVALID


def test_a_digest_name_swapped_after_signing_is_seen() -> None:
    assert judge_cms(CONTENT, rewrite(digest="sha384")).verdict is Verdict.INVALID
    assert judge_cms(CONTENT, rewrite(digest="sha1")).verdict is Verdict.INVALID


def test_a_missing_certificate_is_named() -> None:
    other = make.other_holder().certificate.public_bytes(Encoding.DER)
    own = make.rsa_holder().certificate.public_bytes(Encoding.DER)
    cms = rewrite(certificates=[own]).replace(own, other)
    assert judge_cms(CONTENT, cms).verdict is Verdict.INVALID


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(smime.UnsuitableCertificate):
        smime.SoftwareSigner(make.rsa_key(2048, 1), make.rsa_holder().chain)
    with pytest.raises(smime.UnsuitableCertificate):
        smime.SoftwareDecryptor(make.rsa_key(2048, 1), make.rsa_holder().certificate)


class WrongSigner:
    """A card whose key is not its certificate's."""

    chain = make.rsa_holder().chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        other = make.other_holder()
        return other.signer.sign(digest, mechanism)


def test_a_signature_that_does_not_verify_never_leaves() -> None:
    with pytest.raises(smime.SigningFailed):
        smime.sign_message(MESSAGE, WrongSigner(), at=AT)


def test_short_keys_do_not_sign() -> None:
    small = make.issue(make.rsa_key(1024))
    with pytest.raises(smime.UnsuitableCertificate):
        sign(small)
    with pytest.raises(smime.UnsuitableCertificate):
        sign(make.issue(ec.generate_private_key(ec.SECP224R1())))


def test_a_signed_message_signed_again_keeps_the_inner_signature() -> None:
    raw = sign(make.other_holder(), SIGNED)
    outer, inner = smime.verify_message(raw, at=AT, path=path)
    assert (outer.verdict, inner.verdict) == (Verdict.VALID, Verdict.VALID)
    assert (outer.layer, inner.layer) == (0, 1)
    assert inner.addresses == ("medecin@test.mssante.fr",)


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_whatever_is_signed_verifies_and_keeps_its_sender(pieces: list[bytes]) -> None:
    """However broken the message, its signature is right once made, before and after an envelope."""
    holder = make.rsa_holder()
    raw = sign(holder, b"From: <a@b.fr>\r\nX: y" + b"".join(pieces))
    verifications = smime.verify_message(raw, at=AT, path=path)
    assert verifications[0].verdict is Verdict.VALID
    assert mime.parse(raw).addresses("from")[0] == ("", "a@b.fr")
    sealed = smime.encrypt_message(raw, [holder.certificate])
    decryptor = holder.decryptor
    opened = smime.open_message(sealed, [decryptor], at=AT, path=path)
    assert opened.opened and opened.verifications[0].verdict is Verdict.VALID
    assert isinstance(smime.clear_entity(raw), bytes)


def test_a_lone_cr_never_begins_a_field() -> None:
    raw = sign(make.rsa_holder(), b"From: a@b.fr\r\nSubject: x\rBcc: evil@x.fr\r\n\r\nbody\r\n")
    assert [field.name for field in mime.parse(raw).fields] == ["From", "Subject", "MIME-Version", "Content-Type"]
    assert mime.parse(raw).get("subject") == "x Bcc: evil@x.fr"


def test_size_is_bounded() -> None:
    with pytest.raises(smime.TooLarge):
        smime.verify_message(SIGNED, at=AT, path=path, max_size=100)


def test_inner_fields_never_become_transport_fields() -> None:
    entity = b"From: forged@x.fr\r\nContent-Type: text/plain\r\n\r\nx"
    holder = make.rsa_holder()
    signer = holder.signer
    raw = b"From: medecin@test.mssante.fr\r\nMIME-Version: 1.0\r\n" + smime.sign_entity(entity, signer, at=AT)
    clear = smime.clear_entity(raw)
    assert mime.parse(clear).get_all("from") == ["medecin@test.mssante.fr"]


def test_an_opaque_message() -> None:
    holder = make.rsa_holder()
    cms = sign_cms(CONTENT, holder.signer, at=AT, detached=False)
    raw = b"From: a@b.fr\r\n" + mime.leaf("application/pkcs7-mime", cms, parameters={"smime-type": "signed-data"})
    assert judge(raw).verdict is Verdict.VALID
    clear = smime.clear_entity(raw)
    assert mime.parse(clear).media_type == "text/plain" and mime.parse(clear).get("from") == "a@b.fr"


def test_the_base64_of_the_signature_is_wrapped() -> None:
    body = mime.parse(SIGNED).children[1].body(SIGNED)
    assert base64.b64decode(body) == SIGNATURE
    assert all(len(line) <= 76 for line in body.split(b"\r\n"))
