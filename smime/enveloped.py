"""Sealing bytes into an EnvelopedData, and opening one.

Invariants: AES-256-CBC with a fresh key and vector per message, RSA key transport; only suitable certificates receive a
key; after a recipient matched, every failure is the same DecryptionFailed. CBC alone is malleable (EFAIL): what comes
out proves nothing about its writer, only a signature inside does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding

from smime import asn1, identity
from smime.errors import DecryptionFailed, NotForUs, UnsuitableCertificate
from smime.keys import MAX_RSA_BITS, MIN_RSA_BITS, Decryptor, KeyTransport

MAX_ATTEMPTS = 8


class Transport(StrEnum):
    """How the content key travels. PKCS#1 v1.5 is the default because it is what every mail program, card and HSM in
    use opens; OAEP is for peers known to read it."""

    PKCS1 = "pkcs1-v1.5"
    OAEP_SHA256 = "oaep-sha256"


def encrypt(content: bytes, recipients: Sequence[x509.Certificate], *, transport: Transport = Transport.PKCS1) -> bytes:
    """DER EnvelopedData of `content` for every recipient. Raises UnsuitableCertificate when there is none, too many, or
    one that cannot receive a key (RSA of 2048 bits or more, keyEncipherment, e-mail use)."""
    unique = list(dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in recipients))
    if not 1 <= len(unique) <= asn1.MAX_RECIPIENTS:
        raise UnsuitableCertificate("between 1 and 1000 recipients are needed")
    key, iv = os.urandom(32), os.urandom(16)
    wrapped = [(der, _wrap(key, x509.load_der_x509_certificate(der), transport), _oaep(transport)) for der in unique]
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    return asn1.write_enveloped(wrapped, iv=iv, ciphertext=ciphertext)


def _oaep(transport: Transport) -> str | None:
    return "sha256" if transport is Transport.OAEP_SHA256 else None


def _wrap(key: bytes, certificate: x509.Certificate, transport: Transport) -> bytes:
    public = certificate.public_key()
    if not isinstance(public, rsa.RSAPublicKey) or not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        raise UnsuitableCertificate("encryption needs an RSA key of 2048 bits or more")
    if not identity.may_receive_keys(certificate):
        raise UnsuitableCertificate("the certificate is not for receiving encrypted mail")
    if transport is Transport.PKCS1:
        return public.encrypt(key, rsa_padding.PKCS1v15())
    return public.encrypt(key, rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))


def decrypt(cms: bytes, decryptors: Sequence[Decryptor]) -> bytes:
    """The content of an EnvelopedData for the first decryptor among its recipients whose key opens it.

    Raises MalformedCms, UnsupportedCms, NotForUs, and DecryptionFailed for anything after that."""
    record = asn1.read_enveloped(cms)
    names = [asn1.certificate_name(item.certificate.public_bytes(Encoding.DER)) for item in decryptors]
    matches = [
        (decryptor, recipient)
        for decryptor, name in zip(decryptors, names, strict=True)
        for recipient in record.recipients
        if _is_for(recipient, name)
    ]
    if not matches:
        raise NotForUs("no recipient matches a key at hand")
    for decryptor, recipient in matches[:MAX_ATTEMPTS]:
        key = decryptor.unwrap(recipient.encrypted_key, KeyTransport(recipient.oaep), record.key_length)
        try:
            return _open(key, record.iv, record.ciphertext)
        except ValueError:
            continue  # a second copy of the key may be good: a broken entry must not hide it
    raise DecryptionFailed


def _is_for(recipient: asn1.RecipientRecord, name: asn1.CertificateName) -> bool:
    if isinstance(recipient.rid, bytes):
        return recipient.rid == name.key_identifier
    return (recipient.rid.issuer, recipient.rid.serial) == (name.issuer, name.serial)


def _open(key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Raises ValueError for a wrong key length, a cut ciphertext or wrong padding alike."""
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()
