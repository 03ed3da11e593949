"""The mail path chooses algorithms by recipient: elliptic curve keys, GCM for those who state it, the sender too."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import mime
import smime
from directory import Directory
from proxy import Protected, Protector
from smime import capabilities
from tests.proxy.conftest import ALICE, CLAIRE, Desk
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


def elliptic(desk: Desk, *, states: bool) -> smime.SoftwareDecryptor:
    """A P-256 key of Claire's, certified by the same authority as her other one."""
    key = ec.generate_private_key(ec.SECP256R1())
    pattern = desk.keys[CLAIRE]["encrypt"].certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(pattern.subject)
        .issuer_name(pattern.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(desk.now - timedelta(days=1))
        .not_valid_after(desk.now + timedelta(days=30))
    )
    for extension in pattern.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            value = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
        builder = builder.add_extension(value, extension.critical)
    if states:
        oid = x509.ObjectIdentifier("1.2.840.113549.1.9.15")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, capabilities.OURS_DER), False)
    signing = ec.generate_private_key(ec.SECP256R1())
    return smime.SoftwareDecryptor(key, builder.sign(signing, hashes.SHA256()))


def protector(desk: Desk, directory: object, **encryption: object) -> Protector:
    made = desk.protector()
    return Protector(
        desk.store,
        directory,  # type: ignore[arg-type]
        replace(made._policy, encryption=smime.EncryptionPolicy(**encryption)),  # type: ignore[arg-type]
        signers=desk.checker(Usage.SIGNATURE),
        recipients=lambda certificate, others, at: _Trusted(),
        is_local=made._is_local,
    )


class _Trusted:
    trusted, reason = True, ""


@pytest.mark.parametrize("states", [False, True])
def test_an_elliptic_curve_recipient(desk: Desk, states: bool) -> None:
    """Paths are trusted here by assumption: the curve, the usage and the stated capabilities are what is looked at."""
    claire = elliptic(desk, states=states)
    directory = WithCertificate(desk.directory, CLAIRE, claire.certificate)
    answer = protector(desk, directory).protect(
        letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now
    )
    assert isinstance(answer, Protected)
    (copy,) = answer.copies
    assert isinstance(copy.content, bytes)
    opened = smime.open_message(copy.content, [claire], at=desk.now, path=None)
    cipher = smime.ContentCipher.AES256_GCM if states else smime.ContentCipher.AES256_CBC
    assert opened.opened and opened.ciphers == (cipher,)


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
