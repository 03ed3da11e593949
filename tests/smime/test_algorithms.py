"""Every algorithm through whole messages; recipients of every kind together; the choice by capabilities."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

import mime
import smime
from smime import capabilities, enveloped, enveloped_codec
from smime.algorithms import Mechanism
from smime.capabilities import Capabilities, EncryptionPolicy, Recipient, choose
from smime.verdict import Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, Holder, path
from tests.smime.test_sign_verify import MESSAGE

C = smime.ContentCipher


def signer_of(mechanism: Mechanism) -> Holder:
    if mechanism.family in ("rsa", "pss"):
        return make.rsa_holder()
    if mechanism is Mechanism.ED25519:
        return make.ed25519_holder()
    return make.ec_holder({"sha256": "P-256", "sha384": "P-384", "sha512": "P-521"}[mechanism.digest])


RECIPIENTS: dict[str, Callable[[], Holder]] = {
    "rsa": make.rsa_holder,
    "other rsa": make.other_holder,
    "p256": lambda: make.ec_holder("P-256"),
    "p384": lambda: make.ec_holder("P-384"),
    "p521": lambda: make.ec_holder("P-521"),
    "x25519": make.x25519_holder,
}


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("mechanism", list(Mechanism))
def test_every_signature(mechanism: Mechanism, opaque: bool) -> None:
    holder = signer_of(mechanism)
    raw = smime.sign_message(MESSAGE, (holder.signer, mechanism), at=AT, opaque=opaque)
    (found,) = smime.verify_message(raw, at=AT, path=path)
    assert (found.verdict, found.reasons, found.notes) == (Verdict.VALID, (), ())
    assert found.algorithm == f"{mechanism.family}-{mechanism.digest}"
    assert found.signer_certificate == holder.certificate
    clear = smime.clear_entity(raw)
    assert mime.parse(clear).decoded(clear) == MESSAGE.split(b"\r\n\r\n", 1)[1]


def test_several_signers_and_their_chains() -> None:
    holders = [make.rsa_holder(), make.ec_holder("P-384"), make.ed25519_holder()]
    raw = smime.sign_message(MESSAGE, [one.signer for one in holders], at=AT)
    found = smime.verify_message(raw, at=AT, path=path)
    assert [one.verdict for one in found] == [Verdict.VALID] * 3
    assert {one.signer_certificate for one in found} == {one.certificate for one in holders}
    assert {one.layer for one in found} == {0}
    assert set(mime.parse(raw).parameters["micalg"].split(",")) == {"sha-256", "sha-384", "sha-512"}
    changed = raw.replace(b"aujourd'hui", b"aujourd hui")
    assert {one.verdict for one in smime.verify_message(changed, at=AT, path=path)} == {Verdict.INVALID}


def test_a_mechanism_of_another_key_is_refused() -> None:
    with pytest.raises(smime.UnsuitableCertificate):
        smime.sign_message(MESSAGE, (make.rsa_holder().signer, Mechanism.ED25519), at=AT)
    with pytest.raises(smime.UnsuitableCertificate):
        smime.sign_message(MESSAGE, (make.ec_holder("P-384").signer, Mechanism.ECDSA_SHA256), at=AT)
    with pytest.raises(smime.UnsuitableCertificate):
        smime.sign_message(MESSAGE, [], at=AT)


@pytest.mark.parametrize("cipher", EncryptionPolicy().ciphers)
@pytest.mark.parametrize("who", list(RECIPIENTS))
def test_every_recipient_under_every_cipher(who: str, cipher: smime.ContentCipher) -> None:
    holder = RECIPIENTS[who]()
    raw = smime.encrypt_message(MESSAGE, [holder.certificate], cipher=cipher)
    kind = "authEnveloped-data" if cipher.authenticated else "enveloped-data"
    assert mime.parse(raw).parameters["smime-type"] == kind
    opened = smime.open_message(raw, [holder.decryptor], at=AT, path=path)
    assert (opened.opened, opened.problems, opened.ciphers) == (True, (), (cipher,))
    assert opened.content.endswith(MESSAGE.split(b"\r\n\r\n", 1)[1])


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(RECIPIENTS)), min_size=1, max_size=5),
    st.sampled_from(EncryptionPolicy().ciphers),
    st.binary(max_size=3000),
    st.sampled_from([None, *smime.Transport]),
)
def test_any_mix_of_recipients_opens_to_the_same(
    who: list[str], cipher: smime.ContentCipher, content: bytes, transport: smime.Transport | None
) -> None:
    holders = [RECIPIENTS[name]() for name in who]
    cms = enveloped.encrypt(content, choose([one.certificate for one in holders], cipher=cipher, transport=transport))
    for holder in holders:
        assert enveloped.decrypt(cms, [holder.decryptor]).content == content


GCM_CMS = enveloped.encrypt(b"a text of some length", choose([make.ec_holder().certificate], cipher=C.AES256_GCM))


@settings(max_examples=150)
@given(st.integers(0, len(GCM_CMS) - 1), st.integers(0, 7))
def test_any_flipped_bit_of_a_gcm_envelope_is_refused(place: int, bit: int) -> None:
    """Or, when it falls on a field that nothing authenticates (a version, a recipient's name), harmless."""
    changed = bytearray(GCM_CMS)
    changed[place] ^= 1 << bit
    try:
        content = enveloped.decrypt(bytes(changed), [make.ec_holder().decryptor]).content
    except smime.SmimeError:
        return
    assert content == b"a text of some length"


def test_the_causes_of_failure_differ_in_the_audit_only() -> None:
    """Tag, padding, key unwrap: one error and one text outside; the audit trail alone knows which."""
    who = make.ec_holder()
    causes = set()
    texts = set()
    for cipher, place in ((C.AES256_GCM, -1), (C.AES256_CBC, -17)):
        cms = bytearray(enveloped.encrypt(bytes(64), choose([who.certificate], cipher=cipher)))
        cms[place] ^= 0x80
        with pytest.raises(smime.DecryptionFailed) as caught:
            enveloped.decrypt(bytes(cms), [who.decryptor])
        causes.add(caught.value.cause)
        texts.add((str(caught.value), caught.value.code, repr(caught.value)))
    record = enveloped_codec.read_enveloped(GCM_CMS).recipients[0]
    cms = bytearray(GCM_CMS)
    cms[GCM_CMS.index(record.encrypted_key)] ^= 1
    with pytest.raises(smime.DecryptionFailed) as caught:
        enveloped.decrypt(bytes(cms), [who.decryptor])
    causes.add(caught.value.cause)
    texts.add((str(caught.value), caught.value.code, repr(caught.value)))
    assert causes == set(smime.OpeningFailure)
    assert len(texts) == 1
    raw = mime.leaf("application/pkcs7-mime", bytes(cms))
    opened = smime.open_message(raw, [who.decryptor], at=AT, path=path)
    assert (opened.problems, opened.audit, opened.content) == (("decryption-failed",), ("key-unwrap",), raw)


def test_a_point_that_is_not_on_the_curve_is_the_same_failure() -> None:
    record = enveloped_codec.read_enveloped(GCM_CMS).recipients[0]
    assert isinstance(record, enveloped_codec.AgreementRecord)
    for point in (b"\x04" + bytes(64), b"\x04" + b"\xff" * 64, b"\x00" * 65):
        with pytest.raises(smime.DecryptionFailed):
            enveloped.decrypt(GCM_CMS.replace(record.public, point), [make.ec_holder().decryptor])


# -- the choice -------------------------------------------------------------------------------------------------------

ALL = capabilities.OURS
ONLY_128_GCM = Capabilities((C.AES128_GCM,))
OLD = Capabilities((C.TRIPLE_DES,))


def recipient(seen: Capabilities | None, who: str = "rsa") -> Recipient:
    return Recipient(RECIPIENTS[who]().certificate, seen)


@pytest.mark.parametrize(
    ("seen", "cipher", "reason"),
    [
        ([None], C.AES256_CBC, "policy-default"),
        ([ALL], C.AES256_GCM, "capabilities"),
        ([ALL, ALL], C.AES256_GCM, "capabilities"),
        ([ALL, None], C.AES256_CBC, "capabilities"),
        ([ALL, ONLY_128_GCM], C.AES128_GCM, "capabilities"),
        ([ONLY_128_GCM, None], C.AES256_CBC, "no-common-cipher"),
        ([OLD], C.AES256_CBC, "no-common-cipher"),
        ([Capabilities((C.AES128_CBC,))], C.AES128_CBC, "capabilities"),
    ],
)
def test_the_best_cipher_that_everybody_reads(
    seen: list[Capabilities | None], cipher: smime.ContentCipher, reason: str
) -> None:
    names = list(RECIPIENTS)
    plan = choose([recipient(one, names[index]) for index, one in enumerate(seen)])
    assert (plan.cipher, plan.reason) == (cipher, reason)


def test_nothing_goes_below_the_policy() -> None:
    floor = EncryptionPolicy(ciphers=(C.AES256_GCM, C.AES256_CBC))
    assert choose([recipient(Capabilities((C.AES128_CBC,)))], floor).cipher is C.AES256_CBC
    with pytest.raises(smime.UnsuitableCertificate):
        choose([recipient(None)], floor, cipher=C.AES128_CBC)
    with pytest.raises(ValueError, match="default"):
        EncryptionPolicy(ciphers=(C.AES256_GCM,), default=C.AES256_CBC)
    with pytest.raises(ValueError, match="written"):
        EncryptionPolicy(ciphers=(C.AES256_CBC, C.TRIPLE_DES))


def test_oaep_goes_to_those_who_read_it() -> None:
    reads, silent = recipient(Capabilities((C.AES256_CBC,), oaep=True)), recipient(None, "other rsa")
    cms = enveloped.encrypt(b"x", choose([reads, silent]))
    oaep = {one.oaep for one in enveloped_codec.read_enveloped(cms).recipients if not hasattr(one, "ukm")}
    assert oaep == {("sha256", "sha256"), None}
    always = choose([silent], EncryptionPolicy(oaep="always")).recipients[0][1]
    never = choose([reads], EncryptionPolicy(oaep="never")).recipients[0][1]
    assert (always, never) == (smime.Transport.OAEP_SHA256, smime.Transport.PKCS1)


def test_capabilities_of_a_certificate_and_of_a_signed_message() -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113549.1.9.15"), capabilities.OURS_DER)
    stated = make.issue_public(make.rsa_key().public_key(), more=[extension]).certificate
    assert capabilities.of_certificate(stated) == ALL
    assert choose([stated]).cipher is C.AES256_GCM
    assert choose([Recipient(stated, OLD)]).cipher is C.AES256_CBC  # what was seen comes first
    broken = x509.UnrecognizedExtension(extension.oid, b"\x30\x05junk")
    assert (
        capabilities.of_certificate(make.issue_public(make.rsa_key().public_key(), more=[broken]).certificate) is None
    )
    raw = smime.sign_message(MESSAGE, make.rsa_holder().signer, at=AT)
    (found,) = smime.verify_message(raw, at=AT, path=path)
    assert found.capabilities == ALL
    assert capabilities.read(capabilities.write(ALL)) == ALL


def test_to_the_sender_when_the_policy_says_so() -> None:
    mine, theirs = make.ec_holder(), make.rsa_holder()
    for to_sender in (True, False):
        policy = EncryptionPolicy(to_sender=to_sender)
        raw = smime.encrypt_message(MESSAGE, [theirs.certificate], policy=policy, sender=mine.certificate)
        assert smime.open_message(raw, [mine.decryptor], at=AT, path=path).opened is to_sender
        assert smime.open_message(raw, [theirs.decryptor], at=AT, path=path).opened


def test_expired_certificates_are_the_callers_affair_but_unfit_ones_are_not() -> None:
    old = make.issue(make.rsa_key(), ends=AT - timedelta(days=1))
    assert smime.can_receive(old.certificate)
    assert not smime.can_receive(make.ed25519_holder().certificate)
    assert all(smime.can_receive(make_one().certificate) for make_one in RECIPIENTS.values())
