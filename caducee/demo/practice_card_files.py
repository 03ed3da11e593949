"""The file system of a practice card: ISO/IEC 7816-15 files over certificates of a practice authority."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

APPLICATION = bytes.fromhex("E828BD080F8025000001FF0010")
ROOT = bytes.fromhex("8025000001FF0100")
MF, APP = b"\x3f\x00", b"\x3f\x00\x00\x01"


@dataclass
class Pair:
    """A key of the card and its certificate (which a hostile card may mismatch)."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate


@dataclass
class Personalisation:
    """What is put in one card."""

    signature: Pair
    authentication: Pair
    serial: str = "12345678"
    pin: bytes = b"1234"
    period: tuple[date, date] | None = None
    activities: tuple[tuple[str, str, str], ...] = (("CABINET EXEMPLE", "499700735741008", "SA07"),)
    speciality: str = "SM26"
    files: dict[bytes, bytes] = field(default_factory=dict)


def tlv(tag: int, *values: bytes) -> bytes:
    """Tag (any number of octets), length, values."""
    value = b"".join(values)
    head = tag.to_bytes((tag.bit_length() + 7) // 8 or 1, "big")
    if len(value) < 0x80:
        return head + bytes((len(value),)) + value
    size = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return head + bytes((0x80 | len(size),)) + size + value


def luhn_digit(digits: str) -> str:
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (1 if index % 2 else 2)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def serial_file(serial: str) -> bytes:
    digits = "8025000001" + serial
    return tlv(0x5A, bytes.fromhex(digits + luhn_digit(digits) + "F"))


def build(
    card: Personalisation, *, references: tuple[int, int], identifiers: tuple[bytes, bytes]
) -> dict[bytes, bytes]:
    """Every file by path from the master file. `references` and `identifiers`: signature key, authentication key."""
    paths = {name: APP + bytes.fromhex(fid) for name, fid in _FILES.items()}
    files = {
        MF + b"\x2f\x00": tlv(0x61, tlv(0x4F, APPLICATION), tlv(0x50, b"CPX IAS"), tlv(0x73, tlv(0x4F, APPLICATION))),
        MF + b"\x2f\x01": bytes.fromhex(
            "804301B8460404B0ECC147039401804F088025000001FF0100"
            "E01002020104020201040202010002020100780806062B8122F8780282029000"
        ),
        MF + b"\xd0\x03": serial_file(card.serial),
        APP + b"\x50\x31": b"".join(
            tlv(tag, tlv(0x30, tlv(0x04, paths[name])))
            for tag, name in ((0xA8, "aod"), (0xA0, "prkd"), (0xA4, "cd"), (0xA7, "dod"))
        ),
        APP + b"\x50\x32": tlv(
            0x30,
            tlv(0x02, b"\x01"),
            tlv(0x04, bytes.fromhex(card.serial)),
            tlv(0x0C, b"Oberthur Technologies"),
            tlv(0x80, b"CPS3v1-" + card.serial.encode()),
            tlv(0x03, b"\x04\x10"),
        ),
        APP + b"\x70\x01": b"\x00",
    }
    files[paths["prkd"]] = _key_entry(
        "CPS_PRIV_SIG", identifiers[0], b"\x06\x00\x40", references[0], card.signature
    ) + _key_entry("CPS_PRIV_AUT", identifiers[1], b"\x02\x64", references[1], card.authentication)
    files[paths["cd"]] = _object_entry(
        "Certificat de Signature CPS", identifiers[0], paths["sig"], b""
    ) + _object_entry("Certificat d'Authentification CPS", identifiers[1], paths["aut"], b"")
    for name, pair in (("sig", card.signature), ("aut", card.authentication)):
        files[paths[name]] = pair.certificate.public_bytes(Encoding.DER) + bytes(64)
    files[paths["aod"]] = _pin_entry()
    data = [("CPS_INFO_PS", paths["info"], b"")]
    files[paths["info"]] = b"\x04\x0410" + card.speciality.encode()
    for number, (name, structure, sector) in enumerate(card.activities, 1):
        path = APP + bytes((0xD1, 0x1F + number))
        data.append((f"CPS_ACTIVITY_{number:02}_PS", path, b"\x01"))
        files[path] = tlv(
            0xEE, tlv(0x84, name.encode("latin-1")), tlv(0x85, structure.encode()), tlv(0x86, sector.encode())
        )
    files[paths["dod"]] = b"".join(_data_entry(*one) for one in data)
    if card.period is not None:
        start, end = (one.strftime("%Y%m%d") for one in card.period)
        files[MF + b"\xd0\x10"] = tlv(0xEC, tlv(0x81, bytes.fromhex(start)), tlv(0x82, bytes.fromhex(end)))
    return files | card.files


_FILES = {"aod": "7001", "prkd": "7002", "cd": "7005", "dod": "7006", "sig": "3441", "aut": "3442", "info": "D115"}


def _common(label: str, auth: bytes) -> bytes:
    return tlv(0x30, tlv(0x0C, label.encode()), tlv(0x03, b"\x06\x40"), tlv(0x04, auth) if auth else b"")


def _key_entry(label: str, identifier: bytes, usage: bytes, reference: int, pair: Pair) -> bytes:
    return tlv(
        0x30,
        _common(label, b"\x01"),
        tlv(
            0x30,
            tlv(0x04, identifier),
            tlv(0x03, usage),
            tlv(0x03, b"\x03\xb8"),
            tlv(0x02, bytes((0, reference)) if reference >= 0x80 else bytes((reference,))),
        ),
        tlv(0xA1, tlv(0x30, tlv(0x30, tlv(0x04, b"")), tlv(0x02, pair.key.key_size.to_bytes(2, "big")))),
    )


def _object_entry(label: str, identifier: bytes, path: bytes, auth: bytes) -> bytes:
    return tlv(
        0x30, _common(label, auth), tlv(0x30, tlv(0x04, identifier)), tlv(0xA1, tlv(0x30, tlv(0x30, tlv(0x04, path))))
    )


def _data_entry(label: str, path: bytes, auth: bytes) -> bytes:
    return tlv(0x30, _common(label, auth), tlv(0x30, tlv(0x0C, label.encode())), tlv(0xA1, tlv(0x30, tlv(0x04, path))))


def _pin_entry() -> bytes:
    flags = tlv(0x03, b"\x02\x0c\x10")
    return tlv(
        0x30,
        tlv(0x30, tlv(0x0C, b"Code PIN"), tlv(0x03, b"\x06\xc0")),
        tlv(0x30, tlv(0x04, b"\x01")),
        tlv(
            0xA1,
            tlv(
                0x30,
                flags,
                tlv(0x0A, b"\x01"),
                tlv(0x02, b"\x04"),
                tlv(0x02, b"\x04"),
                tlv(0x02, b"\x04"),
                tlv(0x80, b"\x01"),
                tlv(0x30, tlv(0x04, MF)),
            ),
        ),
    )
