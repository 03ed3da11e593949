"""Sealing bytes into an envelope, and opening one.

Invariants: a fresh key and vector for each message; only suitable certificates receive a key; nothing is released before
GCM's tag has verified; after a recipient matched, every failure is the same DecryptionFailed, after the same work. CBC
alone is malleable (EFAIL): what comes out proves nothing about its writer, only a signature inside does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding

from smime import agreement, asn1, codec, enveloped_codec, identity
from smime.algorithms import AGREEMENT_CURVES, MAX_RSA_BITS, MIN_RSA_BITS, ContentCipher
from smime.capabilities import Plan, Transport
from smime.enveloped_codec import MAX_RECIPIENTS, AgreementRecord, EnvelopedRecord, RecipientRecord, TransportRecord
from smime.errors import (
    DecryptionFailed,
    NotForUs,
    OpeningFailure,
    UnsuitableCertificate,
    UnsupportedCms,
    UnwrapFailed,
)
from smime.keys import Decryptor, KeyTransport, agreement_curve, public_key, transport_padding
from smime.policy import STRICT, ReadingPolicy

MAX_ATTEMPTS = 8
_CHUNK = 1 << 17
_OAEP_SHA256 = KeyTransport(("sha256", "sha256"))


def can_receive(certificate: x509.Certificate) -> bool:
    """Whether this certificate can be encrypted to here: RSA of 2048 bits or more, P-256, P-384, P-521 or X25519, for
    keys and mail."""
    try:
        _suitable(certificate)
    except UnsuitableCertificate:
        return False
    return True


@lru_cache(maxsize=1024)
def _encoded(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@lru_cache(maxsize=1024)
def _suitable(certificate: x509.Certificate) -> object:
    public = public_key(certificate)
    if isinstance(public, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            raise UnsuitableCertificate("an RSA recipient needs a key of 2048 bits or more")
    elif agreement_curve(public) not in AGREEMENT_CURVES:
        raise UnsuitableCertificate("a recipient needs an RSA, P-256, P-384, P-521 or X25519 key")
    if not identity.may_receive_keys(certificate):
        raise UnsuitableCertificate("the certificate is not for receiving encrypted mail")
    return public


def seal(content: Sequence[bytes | memoryview], plan: Plan) -> tuple[int, Iterator[bytes]]:
    """(length, segments) of the DER of an envelope, never all in memory at once; the content is the pieces joined.
    Raises UnsuitableCertificate when there is no recipient, too many, or an unsuitable one."""
    if not 1 <= len(plan.recipients) <= MAX_RECIPIENTS:
        raise UnsuitableCertificate("between 1 and 1000 recipients are needed")
    cipher = plan.cipher
    key = os.urandom(cipher.key_length)
    infos = [_recipient_info(key, certificate, transport) for certificate, transport in plan.recipients]
    size = sum(map(len, content))
    iv = os.urandom(12 if cipher.authenticated else 16)
    padding = b"" if cipher.authenticated else bytes((16 - size % 16,)) * (16 - size % 16)
    before, tail = enveloped_codec.write_enveloped(infos, cipher=cipher, iv=iv, size=size + len(padding))
    encryptor = Cipher(algorithms.AES(key), modes.GCM(iv) if cipher.authenticated else modes.CBC(iv)).encryptor()
    return len(before) + size + len(padding) + tail, _segments(before, (*content, padding), encryptor)


def _segments(head: bytes, content: Sequence[bytes | memoryview], encryptor: CipherContext) -> Iterator[bytes]:
    yield head
    for piece in content:
        view = memoryview(piece)
        for start in range(0, len(view), _CHUNK):
            yield encryptor.update(view[start : start + _CHUNK])
    yield encryptor.finalize()
    if isinstance(encryptor, AEADEncryptionContext):
        yield enveloped_codec.mac_element(encryptor.tag)


def encrypt(content: bytes, plan: Plan) -> bytes:
    """`seal`, joined: DER of a ContentInfo."""
    return b"".join(seal((content,), plan)[1])


def _recipient_info(key: bytes, certificate: x509.Certificate, transport: Transport) -> bytes:
    public, head, scheme = _recipient(certificate, transport)
    if isinstance(public, rsa.RSAPublicKey):
        return head + public.encrypt(key, scheme)
    mine, derivation, wrap, wrapped = agreement.wrap(key, public)
    x25519 = agreement_curve(public) == "x25519"
    return enveloped_codec.agreement_info(_encoded(certificate), mine, derivation, wrap, wrapped, x25519=x25519)


@lru_cache(maxsize=1024)
def _recipient(certificate: x509.Certificate, transport: Transport) -> tuple[object, bytes, AsymmetricPadding]:
    """What is the same in every envelope to a certificate: its public key and, for RSA, the DER before the encrypted key,
    which is as long as the modulus, and the padding."""
    public = _suitable(certificate)
    oaep = transport is Transport.OAEP_SHA256
    scheme = transport_padding(_OAEP_SHA256 if oaep else KeyTransport())
    if not isinstance(public, rsa.RSAPublicKey):
        return public, b"", scheme
    size = (public.key_size + 7) // 8
    info = enveloped_codec.transport_info(_encoded(certificate), bytes(size), "sha256" if oaep else None)
    return public, info[:-size], scheme


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What an envelope held, in pieces, under which cipher, and by which certificate it was opened."""

    pieces: tuple[bytes | memoryview, ...]
    cipher: ContentCipher
    certificate: x509.Certificate

    @property
    def content(self) -> bytes:
        """The pieces joined."""
        return b"".join(self.pieces)


def decrypt(cms: bytes, decryptors: Sequence[Decryptor], *, policy: ReadingPolicy = STRICT) -> Unsealed:
    """Opens an envelope with the first decryptor among its recipients whose key does.

    Raises MalformedCms, UnsupportedCms (also for triple DES unless `policy` reads it), NotForUs, KeyUnavailable, and
    DecryptionFailed for anything after a recipient matched."""
    record = enveloped_codec.read_enveloped(cms)
    if record.cipher is ContentCipher.TRIPLE_DES and not policy.triple_des:
        raise UnsupportedCms("triple DES is not read under this policy")
    matches = _matches(record, decryptors)
    if not matches:
        raise NotForUs("no recipient matches a key at hand")
    cause = OpeningFailure.KEY_UNWRAP
    for decryptor, recipient in matches[:MAX_ATTEMPTS]:
        key, unwrapped = _key(decryptor, recipient, record.cipher.key_length)
        # With a key that could not be had, the work goes on with a random one: no difference to be timed.
        content = _open(key, record)
        if content is not None and unwrapped:
            return Unsealed(content, record.cipher, decryptor.certificate)
        # Another copy of the key may be good: a broken entry must not hide it.
        if unwrapped:
            cause = OpeningFailure.TAG if record.cipher.authenticated else OpeningFailure.PADDING
    raise DecryptionFailed(cause)


def _matches(record: EnvelopedRecord, decryptors: Sequence[Decryptor]) -> list[tuple[Decryptor, RecipientRecord]]:
    found: list[tuple[Decryptor, RecipientRecord]] = []
    for decryptor in decryptors:
        name = asn1.certificate_name(_encoded(decryptor.certificate))
        found += [(decryptor, one) for one in record.recipients if codec.is_named(one.rid, name)]
    return found


def _key(decryptor: Decryptor, recipient: RecipientRecord, key_length: int) -> tuple[bytes, bool]:
    """(content key, True), or (a random key, False) when it is known that the key could not be had. PKCS#1 v1.5 never
    says so: its substitute key must look like any other (RFC 3218 §2.3.2)."""
    try:
        if isinstance(recipient, TransportRecord):
            return decryptor.unwrap(recipient.encrypted_key, KeyTransport(recipient.oaep), key_length), True
        return _agreed_key(decryptor, recipient, key_length), True
    except UnwrapFailed:
        return os.urandom(key_length), False


def _agreed_key(decryptor: Decryptor, recipient: AgreementRecord, key_length: int) -> bytes:
    secret = decryptor.agree(recipient.public)
    kek = agreement.derive(secret, recipient.derivation, recipient.wrap, recipient.wrap_length, recipient.ukm)
    return agreement.unwrap(kek, recipient.encrypted_key, key_length)


def _open(key: bytes, record: EnvelopedRecord) -> tuple[bytes | memoryview, ...] | None:
    """The content; None for a wrong tag, a cut ciphertext or wrong padding alike."""
    if record.cipher.authenticated:
        gcm = Cipher(algorithms.AES(key), modes.GCM(record.iv, record.mac, len(record.mac))).decryptor()
        if record.attributes:
            gcm.authenticate_additional_data(record.attributes)
        opened = tuple(gcm.update(piece) for piece in record.ciphertext)
        try:
            gcm.finalize()
        except InvalidTag:
            return None
        return opened
    algorithm = TripleDES(key) if record.cipher is ContentCipher.TRIPLE_DES else algorithms.AES(key)
    cbc = Cipher(algorithm, modes.CBC(record.iv)).decryptor()
    pieces = [piece for piece in (cbc.update(piece) for piece in record.ciphertext) if piece]
    try:
        cbc.finalize()
    except ValueError:  # not a whole number of blocks
        return None
    last = pieces[-1] if pieces else b""
    count = last[-1] if last else 0
    if not 1 <= count <= record.cipher.block or last[-count:] != bytes((count,)) * count:
        return None
    return (*pieces[:-1], memoryview(last)[:-count])
