"""The CPS card, CPS3 and CPS4, by contact: who holds it, what it certifies, its PIN, its signature.

Invariants: the number of tries left is read before the PIN is shown, and a wrong PIN is never shown again by itself; the
last try is taken only when the caller says so; the PIN is kept nowhere here; every signature is verified with the card's
own certificate before it is given, so that a key that is not its certificate's signs nothing.
Sources: standards facts sheet on the card, §3 (command sequences of the national library, replayed). Command forms that
differ between the two cards are in `_DIALECTS` and `cps_files`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from smime.cps_apdu import Channel, Link, StatusError, raise_for
from smime.cps_errors import (
    BadPin,
    ExpiredCard,
    LastTry,
    MalformedCard,
    PinBlocked,
    UnsuitableCard,
    WrongPin,
)
from smime.cps_files import Files, Model, certificate_octets, period_of_use, serial_number
from smime.cps_model import SHA256_INFO, Activity, Holder, PinStatus, checked, holder_of, rsa_key
from smime.cps_pkcs15 import CardKey, CardObject, object_directory, objects, private_keys
from smime.cps_tlv import read

_CPS3 = bytes.fromhex("3BAC00402A001225006480000310009000")
_CPS4 = bytes.fromhex("3B9B188001001225006480040100009044")
_CPS4_CANDIDATES = (
    bytes.fromhex("3B9B188001001225006480000401009044"),
    bytes.fromhex("3BDC18FF00001225006480000401009000"),
)
_CONTACTLESS = bytes.fromhex("3B8F80010031B86404B0ECC1739401808290000E")
_SERIAL, _PERIOD, _DIRECTORY = (bytes.fromhex(one) for one in ("3F00D003", "3F00D010", "3F0000015031"))
_PIN = 0x01
_MOST_CERTIFICATES = 8
_MOST_ACTIVITIES = 16


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How one model is spoken to: class octet, MSE data for a signature, key references of signature and authentication
    when the card's own directory gives none that fits."""

    cla: int
    sign_algorithm: int
    sign_reference: int
    auth_reference: int


_DIALECTS: Mapping[Model, _Dialect] = {
    Model.CPS3: _Dialect(0x00, 0x42, 0x81, 0x82),
    Model.CPS4: _Dialect(0x01, 0x28, 0x10, 0x20),
}


def model_of(atr: bytes) -> Model:
    """The card an answer to reset announces. Raises UnsuitableCard: unknown, or contactless, which does not sign."""
    # Bytes 1 to 4 and 11 to 13 vary with the mask of a CPS3 (facts sheet §3.1).
    if len(atr) == len(_CPS3) and (atr[0], atr[5:11], atr[14:]) == (_CPS3[0], _CPS3[5:11], _CPS3[14:]):
        return Model.CPS3
    if atr in (_CPS4, *_CPS4_CANDIDATES):
        return Model.CPS4
    if len(atr) == len(_CONTACTLESS) and atr[:5] == _CONTACTLESS[:5]:
        raise UnsuitableCard("contactless: insert the card in a reader")
    raise UnsuitableCard("not a CPS card")


class CpsCard:
    """One card, while it stays in its reader. Made by `open`; every method speaks to the card.

    Raises, besides what methods say: CardRemoved, ReaderFailed, MalformedCard, StatusError."""

    def __init__(self, link: Link, model: Model) -> None:
        self._link = link
        self.model = model
        self._dialect = _DIALECTS[model]
        self._channel = Channel(link, self._dialect.cla)
        self._files = Files(self._channel, model)
        self._objects: list[CardObject] | None = None
        self._data: list[CardObject] = []
        self._keys: list[CardKey] = []
        self._certificates: list[tuple[CardObject, x509.Certificate]] | None = None

    @classmethod
    def open(cls, link: Link) -> CpsCard:
        """Recognise the card and select its application. Raises UnsuitableCard."""
        card = cls(link, model_of(link.atr))
        with link.exclusive():
            if card.model is Model.CPS4:
                card._open_channel()
            card._files.begin()
        return card

    def _open_channel(self) -> None:
        """MANAGE CHANNEL (ISO/IEC 7816-4 §7.1.2): the CPS4 is driven on logical channel 1."""
        answer = Channel(self._link).send(0x70, 0x00, 0x01)
        # 6A81 or 6985 here: the channel is open already, as another program left it.
        if answer.status not in (0x9000, 0x6A81, 0x6985):
            raise_for(answer.status)

    @property
    def serial(self) -> str:
        """The eight digits printed and kept in EF(SN.ICC)."""
        with self._link.exclusive():
            return serial_number(self._files.read(_SERIAL))

    def check_period(self, at: datetime) -> None:
        """Raises ExpiredCard when the card or its signature certificate is out of date at `at` (aware), MalformedCard
        when its period of use is unreadable. A card that was never updated has none."""
        with self._link.exclusive():
            content = self._files.read_optional(_PERIOD)
        if content:
            start, end = period_of_use(content)
            if (start is not None and at.date() < start) or (end is not None and at.date() > end):
                raise ExpiredCard("the card is out of its period of use")
        certificate = self.signature_certificate()
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise ExpiredCard("the card's certificate is out of its dates")

    def signature_certificate(self) -> x509.Certificate:
        """The certificate of the key that signs mail (usage nonRepudiation). Raises UnsuitableCard."""
        return self._pair(signing=True)[1]

    def authentication_certificate(self) -> x509.Certificate:
        """The certificate of the key that logs in and deciphers. Raises UnsuitableCard."""
        return self._pair(signing=False)[1]

    def holder(self) -> Holder:
        """Who holds the card, read from the signature certificate."""
        return holder_of(self.signature_certificate())

    def pin_status(self) -> PinStatus:
        """How many tries are left, without using one. Raises PinBlocked when none is."""
        with self._link.exclusive():
            return self._pin_status()

    def _pin_status(self) -> PinStatus:
        self._files.select_master()
        if self.model is Model.CPS3:
            counters = self._channel.send(0xCB, 0x3F, 0xFF, bytes.fromhex("4D087006BF810102A080"), le=256)
            if counters.status == 0x9000:
                return _counters(counters.data)
        answer = self._channel.send(0x20, 0x00, _PIN)
        if answer.status == 0x9000:  # already verified in this session: the counter is full, and not told
            return PinStatus(3)
        try:
            raise_for(answer.status)
        except WrongPin as told:
            return PinStatus(told.left)
        raise AssertionError("unreachable")

    def verify_pin(self, pin: bytes | bytearray, *, take_last_try: bool = False) -> None:
        """Show the PIN (ASCII digits) to the card, once. Raises BadPin (form), LastTry, WrongPin, PinBlocked."""
        if not 4 <= len(pin) <= 8 or not all(0x30 <= digit <= 0x39 for digit in pin):
            raise BadPin("a PIN is 4 to 8 digits")
        with self._link.exclusive():
            left = self._pin_status().left
            if left <= 0:
                raise PinBlocked("the PIN is blocked")
            if left == 1 and not take_last_try:
                raise LastTry("one try is left")
            self._channel.need(0x20, 0x00, _PIN, bytes(pin))

    def activities(self) -> tuple[Activity, ...]:
        """The practice situations (behind the PIN). Raises PinRequired. What cannot be read in one is left out."""
        found: list[Activity] = []
        with self._link.exclusive():
            for one in self._find_objects()[1]:
                if one.label.startswith("CPS_ACTIVITY_") and len(found) < _MOST_ACTIVITIES:
                    activity = _activity(self._files.read(one.path))
                    if activity is not None:
                        found.append(activity)
        return tuple(found)

    def speciality(self) -> str:
        """The speciality code (table R01) at the end of CPS_INFO_PS, "" when the card has none."""
        with self._link.exclusive():
            for one in self._find_objects()[1]:
                if one.label == "CPS_INFO_PS":
                    text = self._files.read(one.path).rstrip(b"\0\xff ").decode("latin-1")
                    return text[-4:] if text[-4:].isalnum() else ""
        return ""

    def sign_digest(self, digest: bytes) -> bytes:
        """RSA PKCS#1 v1.5 over a SHA-256 digest, with the signature key, verified. Raises PinRequired, KeyMismatch."""
        key, certificate = self._pair(signing=True)
        with self._link.exclusive():
            self._channel.need(0x22, 0x81 if self.model is Model.CPS4 else 0x41, 0xB6, self._for_signature(key))
            signature = self._channel.need(0x2A, 0x9E, 0x9A, digest, le=256)
        return checked(signature, digest, certificate)

    def _for_signature(self, key: CardKey | None) -> bytes:
        reference = key.reference if key is not None else self._dialect.sign_reference
        if self.model is Model.CPS3:
            return bytes((0x80, 0x01, self._dialect.sign_algorithm, 0x84, 0x01, reference))
        return bytes((0x91, 0x02, self._dialect.sign_algorithm, reference | 0x80))

    def authenticate(self, digest: bytes) -> bytes:
        """RSA PKCS#1 v1.5 over a SHA-256 digest, with the authentication key (TLS client login), verified. Raises
        PinRequired, KeyMismatch."""
        key, certificate = self._pair(signing=False)
        info = SHA256_INFO + digest
        with self._link.exclusive():
            if self.model is Model.CPS3:
                reference = key.reference if key is not None else self._dialect.auth_reference
                self._channel.need(0x22, 0x41, 0xA4, bytes((0x80, 0x01, 0x02, 0x84, 0x01, reference)))
                signature = self._channel.need(0x88, 0x00, 0x00, info, le=256)
            else:
                size = rsa_key(certificate).key_size // 8
                block = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
                signature = self._decipher(block, key)
        return checked(signature, digest, certificate)

    def unwrap(self, encrypted_key: bytes, key_length: int) -> bytes:
        """The content key in an RSA PKCS#1 v1.5 block, with the authentication key; a random key of that length when the
        padding is not right (implicit rejection). Raises PinRequired."""
        key, certificate = self._pair(signing=False)
        substitute = secrets.token_bytes(key_length)
        if len(encrypted_key) != rsa_key(certificate).key_size // 8:
            return substitute
        with self._link.exclusive():
            try:
                clear = self._decipher(encrypted_key, key)
            except StatusError:  # the card itself refuses a wrong padding
                return substitute
        if self.model is Model.CPS4:
            head, _, rest = clear[2:].partition(b"\0")
            good = clear[:2] == b"\x00\x02" and len(head) >= 8
            clear = rest if good else b""
        return clear if len(clear) == key_length else substitute

    def _decipher(self, block: bytes, key: CardKey | None) -> bytes:
        """PSO: DECIPHER, chained; the block comes back raw from a CPS4, without its padding from a CPS3."""
        reference = key.reference if key is not None else self._dialect.auth_reference
        if self.model is Model.CPS3:
            self._channel.need(0x22, 0x41, 0xB8, bytes((0x80, 0x01, 0x1A, 0x84, 0x01, reference)))
        else:
            self._channel.need(0x22, 0x41, 0xB8, bytes((0x83, 0x01, reference)))
        data = b"\x81" + block
        self._channel.need(0x2A, 0x80, 0x86, data[:255], more=0x10)
        return self._channel.need(0x2A, 0x80, 0x86, data[255:], le=256)

    def _pair(self, *, signing: bool) -> tuple[CardKey | None, x509.Certificate]:
        """The signature or authentication key with its certificate, paired by identifier."""
        certificates = self._read_certificates()
        keys = {key.identifier: key for key in self._keys if key.non_repudiation is signing}
        for found, certificate in certificates:
            if found.identifier in keys:
                return keys[found.identifier], certificate
        wanted = "Signature" if signing else "Authentification"
        for found, certificate in certificates:
            if wanted in found.label:
                return None, certificate
        raise UnsuitableCard(f"no certificate for {'signature' if signing else 'authentication'} on this card")

    def _read_certificates(self) -> list[tuple[CardObject, x509.Certificate]]:
        if self._certificates is None:
            with self._link.exclusive():
                found = self._find_objects()[0][:_MOST_CERTIFICATES]
                self._certificates = [(one, _certificate(self._files.read(one.path))) for one in found]
        return self._certificates

    def _find_objects(self) -> tuple[list[CardObject], list[CardObject]]:
        """Certificates and data objects, from the card's directory files; keys besides."""
        if self._objects is None:
            named = object_directory(self._files.read(_DIRECTORY))
            self._keys = [key for path in named.private_keys for key in private_keys(self._files.read(path))]
            self._data = [one for path in named.data for one in objects(self._files.read(path))]
            self._objects = [one for path in named.certificates for one in objects(self._files.read(path))]
        return self._objects, self._data


def _counters(data: bytes) -> PinStatus:
    """The PIN counters in 70 {BF8101 {A0 {9A most, 9B left}}}. Raises MalformedCard, PinBlocked."""
    for outer in read(data):
        inner = outer.find(0xBF8101, 0xA0) if outer.tag == 0x70 else None
        most, left = (inner.child(0x9A), inner.child(0x9B)) if inner is not None else (None, None)
        if most is not None and left is not None and len(most.value) == len(left.value) == 1:
            if left.value[0] == 0:
                raise PinBlocked("the PIN is blocked")
            return PinStatus(left.value[0], most.value[0])
    raise MalformedCard("no PIN counter")


def _activity(content: bytes) -> Activity | None:
    """EE {84 structure's name, 85 its national identifier, 86 sector}; None for an empty file."""
    for entry in read(content):
        if entry.tag == 0xEE:
            texts = [entry.child(tag) for tag in (0x84, 0x85, 0x86)]
            name, identifier, sector = (one.value.decode("latin-1").strip("\0 ") if one else "" for one in texts)
            return Activity(name, identifier, sector)
    return None


def _certificate(content: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(certificate_octets(content))
        rsa_key(certificate)
    except ValueError:
        raise MalformedCard("a certificate that cannot be read") from None
    return certificate
