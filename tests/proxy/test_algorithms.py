"""The mail path chooses algorithms by recipient: elliptic curve keys, GCM for those who state it, the sender too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import mime
import smime
from directory import Directory
from proxy import HeaderPolicy, Protected, Protector
from smime import capabilities
from tests.proxy.conftest import ALICE, BRUNO, CLAIRE, Desk
from tests.proxy.test_protection import letter
from trustspace import Usage


class WithCertificate:
    """The real directory, but one address has another certificate."""

    def __init__(self, inner: Directory, address: str, certificate: x509.Certificate) -> None:
        self._inner, self._address, self._certificate = inner, address, certificate

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def encryption_certificates(self, address: str, at: object) -> list[x509.Certificate]:
        if address == self._address:
            return [self._certificate]
        return self._inner.encryption_certificates(address, at)  # type: ignore[arg-type]


def elliptic(desk: Desk, address: str = CLAIRE, use: str = "encrypt", *, states: bool = False) -> Elliptic:
    """A P-256 key, certified by the practice authority like the RSA one of the same person."""
    key = ec.generate_private_key(ec.SECP256R1())
    pattern = desk.keys[address][use].certificate
    authority = next(one for one in desk.authority._authorities.values() if one.certificate.subject == pattern.issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(pattern.subject)
        .issuer_name(pattern.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(desk.now - timedelta(minutes=5))
        .not_valid_after(desk.now + timedelta(days=30))
    )
    for extension in pattern.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage) and use == "encrypt":
            value = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(value, extension.critical)
    if states:
        oid = x509.ObjectIdentifier("1.2.840.113549.1.9.15")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, capabilities.OURS_DER), False)
    leaf = builder.sign(authority.key, hashes.SHA256())
    return Elliptic(key, leaf, (leaf, authority.certificate))


@dataclass(frozen=True)
class Elliptic:
    """A key of an elliptic curve with its certificate, and the chain, leaf first."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @property
    def decryptor(self) -> smime.SoftwareDecryptor:
        return smime.SoftwareDecryptor(self.key, self.certificate)


def protector(
    desk: Desk, directory: object, *, headers: HeaderPolicy = HeaderPolicy.SIGNED, **encryption: object
) -> Protector:
    made = desk.protector()
    return Protector(
        desk.store,
        directory,  # type: ignore[arg-type]
        replace(made._policy, headers=headers, encryption=smime.EncryptionPolicy(**encryption)),  # type: ignore[arg-type]
        signers=desk.checker(Usage.SIGNATURE),
        recipients=desk.checker(Usage.ENCRYPTION),
        is_local=made._is_local,
    )


@pytest.mark.parametrize("states", [False, True])
def test_an_elliptic_curve_recipient(desk: Desk, states: bool) -> None:
    """Its certificate is one of the practice authority; path, revocation and usage are checked for real."""
    claire = elliptic(desk, states=states)
    directory = WithCertificate(desk.directory, CLAIRE, claire.certificate)
    answer = protector(desk, directory).protect(
        letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now
    )
    assert isinstance(answer, Protected)
    (copy,) = answer.copies
    assert isinstance(copy.content, bytes)
    opened = smime.open_message(copy.content, [claire.decryptor], at=desk.now, path=desk.checker(Usage.SIGNATURE))
    cipher = smime.ContentCipher.AES256_GCM if states else smime.ContentCipher.AES256_CBC
    assert opened.opened and opened.ciphers == (cipher,)
    (verification,) = opened.verifications
    assert verification.verdict is smime.Verdict.VALID and verification.addresses == (ALICE,)


def test_a_signer_and_a_recipient_on_elliptic_curves(desk: Desk) -> None:
    """Signed at the desk with a P-256 key, encrypted to another, opened and verified: every path is checked."""
    alice, claire = elliptic(desk, ALICE, "sign"), elliptic(desk)
    signed = smime.sign_message(letter(ALICE), smime.SoftwareSigner(alice.key, alice.chain), at=desk.now)
    proxy = protector(desk, WithCertificate(desk.directory, CLAIRE, claire.certificate))
    answer = proxy.protect(signed, sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
    assert isinstance(answer, Protected)
    (copy,) = answer.copies
    assert isinstance(copy.content, bytes)
    opened = smime.open_message(copy.content, [claire.decryptor], at=desk.now, path=desk.checker(Usage.SIGNATURE))
    (verification,) = opened.verifications
    assert verification.verdict is smime.Verdict.VALID and verification.algorithm == "ecdsa-sha256"
    desk.authority.revoke(alice.certificate, desk.now - timedelta(minutes=1))
    again = smime.open_message(copy.content, [claire.decryptor], at=desk.now, path=desk.checker(Usage.SIGNATURE))
    assert again.verifications[0].verdict is smime.Verdict.UNTRUSTED
    assert again.verifications[0].findings.revocation is smime.Finding.BAD


def test_what_a_correspondent_stated_is_remembered(desk: Desk) -> None:
    """Claire's program says in a signature that it reads GCM and OAEP: the next message to her uses both."""
    proxy = protector(desk, desk.directory)
    claire, key = desk.keys[CLAIRE]["sign"], desk.keys[CLAIRE]["encrypt"]

    def sent() -> tuple[smime.ContentCipher, ...]:
        answer = proxy.protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
        assert isinstance(answer, Protected) and isinstance(answer.copies[0].content, bytes)
        decryptor = smime.SoftwareDecryptor(key.key, key.certificate)
        return smime.open_message(answer.copies[0].content, [decryptor], at=desk.now, path=None).ciphers

    assert sent() == (smime.ContentCipher.AES256_CBC,)
    signer = smime.SoftwareSigner(claire.key, claire.chain)
    hers = smime.sign_message(letter(CLAIRE), signer, at=desk.now)
    place = mime.parse(hers).children[0].body_start
    broken = hers[:place] + bytes((hers[place] ^ 1,)) + hers[place + 1 :]
    for raw, expected in ((broken, smime.ContentCipher.AES256_CBC), (hers, smime.ContentCipher.AES256_GCM)):
        proxy.open(raw, recipient=desk.account(ALICE), sender=CLAIRE, at=desk.now)
        assert sent() == (expected,)


@pytest.mark.parametrize("is_here", [True, False])
def test_what_a_signature_states_is_what_opens_the_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    """This program, when it holds the key of Alice's mailbox; otherwise one of which nothing is known."""
    proxy = protector(desk, desk.directory)
    if not is_here:
        held = proxy._keys.signer(desk.account(ALICE))
        assert held is not None and held.opens
        monkeypatch.setattr(type(proxy._keys), "signer", lambda self, account: replace(held, opens=False))
    answer = proxy.protect(letter(ALICE), sender=desk.account(ALICE), recipients=[BRUNO], at=desk.now)
    assert isinstance(answer, Protected)
    key = desk.keys[BRUNO]["encrypt"]
    decryptor = smime.SoftwareDecryptor(key.key, key.certificate)
    opened = smime.open_message(answer.local[BRUNO], [decryptor], at=desk.now, path=desk.checker(Usage.SIGNATURE))
    assert opened.verifications[0].capabilities == (smime.OURS if is_here else smime.COMMON)


@pytest.mark.parametrize("headers", list(HeaderPolicy))
def test_the_header_is_protected_as_the_policy_says(desk: Desk, headers: HeaderPolicy) -> None:
    """RFC 9788, written when signing, read when opening: a Subject that was hidden on the way is shown again."""
    proxy = protector(desk, desk.directory, headers=headers)
    answer = proxy.protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE, ALICE], at=desk.now)
    assert isinstance(answer, Protected) and isinstance(answer.copies[0].content, bytes)
    subject = mime.parse(letter(ALICE)).get("subject")
    sealed, local = answer.copies[0].content, answer.local[ALICE]
    hidden = headers is HeaderPolicy.ENCRYPTED
    assert mime.parse(sealed).get("subject") == ("[...]" if hidden else subject)
    assert mime.parse(local).get("subject") == subject  # never encrypted, never hidden
    key = desk.keys[CLAIRE]["encrypt"]
    opened = smime.open_message(
        sealed, [smime.SoftwareDecryptor(key.key, key.certificate)], at=desk.now, path=desk.checker(Usage.SIGNATURE)
    )
    assert opened.verifications[0].verdict is smime.Verdict.VALID
    assert (opened.headers is None) is (headers is HeaderPolicy.NONE)
    if opened.headers is not None:
        assert opened.headers.text("subject") == subject and opened.headers.text("from") is not None
    assert mime.parse(opened.revealed()).get("subject") == subject


def test_a_subject_hidden_by_another_operator_is_shown_to_its_reader(desk: Desk) -> None:
    """From Claire's operator to Alice, whose keys are here: what is delivered has its Subject, and the signature holds."""
    hers, mine = desk.keys[CLAIRE]["sign"], desk.keys[ALICE]["encrypt"]
    signer = smime.SoftwareSigner(hers.key, hers.chain)
    signed = smime.sign_message(letter(CLAIRE), signer, at=desk.now, protect=smime.HeaderMode.CIPHER)
    sealed = smime.encrypt_message(signed, [mine.certificate])
    assert mime.parse(sealed).get("subject") == "[...]"
    opened = protector(desk, desk.directory).open(sealed, recipient=desk.account(ALICE), sender=CLAIRE, at=desk.now)
    assert mime.parse(opened.content).get("subject") == mime.parse(letter(CLAIRE)).get("subject")
    assert opened.clear is not None and mime.parse(opened.clear).get("subject") == mime.parse(opened.content).get(
        "subject"
    )
    (verification,) = smime.verify_message(opened.content, at=desk.now, path=desk.checker(Usage.SIGNATURE))
    assert verification.verdict is smime.Verdict.VALID


@pytest.mark.parametrize("to_sender", [True, False])
def test_the_sender_can_read_it_too_when_the_policy_says_so(desk: Desk, to_sender: bool) -> None:
    answer = protector(desk, desk.directory, to_sender=to_sender).protect(
        letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now
    )
    assert isinstance(answer, Protected)
    (copy,) = answer.copies
    assert isinstance(copy.content, bytes)
    issued = desk.keys[ALICE]["encrypt"]
    key = smime.SoftwareDecryptor(issued.key, issued.certificate)
    opened = smime.open_message(copy.content, [key], at=desk.now, path=None)
    assert opened.opened is to_sender
    assert mime.parse(copy.content).parameters["smime-type"] == "enveloped-data"
