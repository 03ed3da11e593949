"""What is said of a CPS card and what is done with one, however it is reached: by PC/SC (`smime.cps`) or through a PKCS#11
library (`smime.cps_library`).

Invariants: every signature is verified with the card's own certificate before it is given, so that a key that is not its
certificate's signs nothing; a signer holds no PIN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from smime.algorithms import Mechanism
from smime.cps_errors import KeyMismatch, MalformedCard
from smime.errors import UnsuitableCertificate, UnwrapFailed
from smime.identity import national_id
from smime.keys import KeyTransport

SHA256_INFO = bytes.fromhex("3031300D060960864801650304020105000420")
"""A DigestInfo of SHA-256 (RFC 8017 §9.2), but for the digest."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a card, from its certificate. `national_id` is `8`+RPPS or `0`+ADELI, None when the certificate names no
    person; `profession` the French title."""

    national_id: str | None
    surname: str
    given_name: str
    profession: str


@dataclass(frozen=True, slots=True)
class Activity:
    """One practice situation: structure and sector (SAnn)."""

    structure_name: str
    structure_id: str
    sector: str


@dataclass(frozen=True, slots=True)
class PinStatus:
    """Tries left before the PIN is blocked; `most` when the card says how many there are after a right PIN."""

    left: int
    most: int | None = None


class SigningCard(Protocol):
    """A card that signs mail. Raises CardError."""

    def signature_certificate(self) -> x509.Certificate: ...

    def sign_digest(self, digest: bytes) -> bytes: ...


class DecryptingCard(Protocol):
    """A card that opens mail. Raises CardError."""

    def authentication_certificate(self) -> x509.Certificate: ...

    def unwrap(self, encrypted_key: bytes, key_length: int) -> bytes: ...


class Card(SigningCard, Protocol):
    """A card at hand, for one piece of work: see `smime.cps.CpsCard` for what each method says and raises."""

    @property
    def serial(self) -> str: ...

    def holder(self) -> Holder: ...

    def check_period(self, at: datetime) -> None: ...

    def authentication_certificate(self) -> x509.Certificate: ...

    def pin_status(self) -> PinStatus: ...

    def verify_pin(self, pin: bytes, *, take_last_try: bool = False) -> None: ...

    def authenticate(self, digest: bytes) -> bytes: ...


def holder_of(certificate: x509.Certificate) -> Holder:
    """Who holds the card of this certificate."""

    def value(oid: x509.ObjectIdentifier) -> str:
        found = [str(item.value) for rdn in certificate.subject.rdns for item in rdn if item.oid == oid]
        return found[0] if len(found) == 1 else ""

    name = x509.NameOID
    return Holder(national_id(certificate), value(name.SURNAME), value(name.GIVEN_NAME), value(name.TITLE))


def rsa_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """The public key of a card's certificate. Raises MalformedCard: all of a card's keys are RSA."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise MalformedCard("a card's certificate without an RSA key")
    return key


def checked(signature: bytes, digest: bytes, certificate: x509.Certificate) -> bytes:
    """`signature`, which is RSA PKCS#1 v1.5 over this SHA-256 digest. Raises KeyMismatch when it is not."""
    try:
        rsa_key(certificate).verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    except InvalidSignature:
        raise KeyMismatch("the card's signature does not verify with its certificate") from None
    return signature


class CardSigner:
    """A `smime.Signer` over a card that has been shown its PIN. `issuers`: the certificates above the card's own."""

    def __init__(self, card: SigningCard, issuers: Sequence[x509.Certificate] = ()) -> None:
        self._card = card
        self._chain = (card.signature_certificate(), *issuers)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `smime.Signer.sign`; RSA PKCS#1 v1.5 with SHA-256 only. Raises UnsuitableCertificate, CardError."""
        if mechanism is not Mechanism.RSA_PKCS1_SHA256:
            raise UnsuitableCertificate("the card signs with RSA PKCS#1 v1.5 and SHA-256")
        return self._card.sign_digest(digest)


class CardDecryptor:
    """A `smime.Decryptor` over a card that has been shown its PIN."""

    def __init__(self, card: DecryptingCard) -> None:
        self._card = card
        self._certificate = card.authentication_certificate()

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `smime.Decryptor.unwrap`; PKCS#1 v1.5 only: the card knows no OAEP."""
        if transport.oaep is not None:
            raise UnwrapFailed
        return self._card.unwrap(encrypted_key, key_length)

    def agree(self, public: bytes) -> bytes:
        """The card holds no elliptic curve key."""
        raise UnwrapFailed
