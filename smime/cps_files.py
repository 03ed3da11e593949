"""Files of a CPS card: selecting and reading them, in the dialect of each model, and what a few of them say.

Invariants: sizes come from the card and are bounded before anything is read; reading stops when the card gives nothing;
a certificate is cut to its own length, because files are longer than what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from smime import der
from smime.cps_apdu import OK, Answer, Channel, raise_for
from smime.cps_errors import MalformedCard, UnsuitableCard
from smime.cps_tlv import Tlv, read

MAX_FILE = 16 * 1024
_BLOCK = 0xE7
_APPLICATION = bytes.fromhex("E828BD080F8025000001FF0010")
_ROOT = bytes.fromhex("8025000001FF0100")
_MF = b"\x3f\x00"


class Model(StrEnum):
    """Which card: the two that are in use."""

    CPS3 = "CPS3"
    CPS4 = "CPS4"


@dataclass(frozen=True, slots=True)
class Files:
    """The file system of one card."""

    channel: Channel
    model: Model

    def begin(self) -> None:
        """Select the application that holds keys and certificates. Raises UnsuitableCard when there is none."""
        aid = _APPLICATION if self.model is Model.CPS3 else _ROOT
        answer = self.channel.send(0xA4, 0x04, 0x0C if self.model is Model.CPS3 else 0x00, aid)
        if answer.status != OK:
            raise UnsuitableCard("no CPS application on this card")

    def read(self, path: bytes) -> bytes:
        """The whole content of the file at a path from the master file (3F00…). Raises UnsuitableCard when there is no
        such file, PinRequired, MalformedCard."""
        size = self._select(path)
        content = bytearray()
        while len(content) < size:
            offset = len(content)
            answer = self.channel.send(0xB0, offset >> 8, offset & 0xFF, le=min(_BLOCK, size - offset))
            if answer.status in (0x6B00, 0x6282) or (answer.status == OK and not answer.data):
                content += answer.data
                break
            raise_for(answer.status)
            content += answer.data
        return bytes(content[:size])

    def read_optional(self, path: bytes) -> bytes | None:
        """As `read`, None when there is no such file."""
        try:
            return self.read(path)
        except UnsuitableCard:
            return None

    def select_master(self) -> None:
        """Select the master file, where the PIN is."""
        if self.model is Model.CPS3:
            self.channel.need(0xA4, 0x09, 0x0C, _MF)

    def _select(self, path: bytes) -> int:
        """Select a file; its size in octets."""
        full = path if path.startswith(_MF) else _MF + b"\x00\x01" + path
        answer = self._selected(full)
        raise_for(answer.status)
        tag = 0x62 if self.model is Model.CPS3 else 0x6F
        for template in read(answer.data):
            if template.tag in (tag, 0x62, 0x6F):
                size = template.child(0x80)
                if size is not None and 1 <= len(size.value) <= 2:
                    found = int.from_bytes(size.value, "big")
                    if found > MAX_FILE:
                        raise MalformedCard("a file larger than a card")
                    return found
        raise MalformedCard("a file without a size")

    def _selected(self, full: bytes) -> Answer:
        if self.model is Model.CPS3:
            return self.channel.send(0xA4, 0x09, 0x04, full, le=256)
        return self.channel.send(0xA4, 0x08, 0x00, full.removeprefix(_MF), le=256)


def serial_number(content: bytes) -> str:
    """The eight digits of EF(SN.ICC): 5A 0A, ten octets of nibbles 8025000001 dddddddd, Luhn digit, F. Raises
    MalformedCard, also when the check digit is wrong."""
    entry = next(read(content), None)
    if entry is None or entry.tag != 0x5A or len(entry.value) != 10:
        raise MalformedCard("no serial number")
    digits = entry.value.hex().rstrip("f")
    if not digits.isdigit() or len(digits) != 19 or not _luhn(digits):
        raise MalformedCard("a serial number that does not check")
    return digits[10:18]


def _luhn(digits: str) -> bool:
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def period_of_use(content: bytes) -> tuple[date | None, date | None]:
    """First and last day of EF_ACTUA: EC {81 start, 82 end}, BCD dates YYYYMMDD; None where it says nothing. Raises
    MalformedCard for what is not a date: such a card is not to be used."""
    entry = next(read(content), None)
    if entry is None or entry.tag != 0xEC:
        raise MalformedCard("no period of use")
    return _bcd_date(entry, 0x81), _bcd_date(entry, 0x82)


def _bcd_date(entry: Tlv, tag: int) -> date | None:
    found = entry.child(tag)
    if found is None:
        return None
    text = found.value.hex()
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        raise MalformedCard("a period of use without dates") from None


def certificate_octets(content: bytes) -> bytes:
    """The certificate at the start of a file, without what follows. Raises MalformedCard."""
    entry = next(read(content), None)
    if entry is None or entry.tag != 0x30:
        raise MalformedCard("no certificate in its file")
    return der.sequence(entry.value)
