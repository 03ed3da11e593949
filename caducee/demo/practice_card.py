"""A practice card: CPS3 and CPS4 as programs, for the demonstration and the tests; never a real card's substitute.

Commands in, answers out, with the state a real card keeps (selection, PIN counter, security environment). Strict about T=0:
a command with data and Le is an error, and its answer waits for GET RESPONSE. A CPS4, which also offers T=1, answers a
command with data and Le at once. The command forms are those of the facts sheet, §3.5.

Invariant: the keys in it are practice keys; the RSA here is plain arithmetic, which tells its time to whoever listens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from caducee.demo.practice_card_files import APP, APPLICATION, MF, ROOT, Personalisation, build, tlv

CPS3_ATR = bytes.fromhex("3BAC00402A001225006480000310009000")
CPS4_ATR = bytes.fromhex("3B9B188001001225006480040100009044")
SHA256_INFO = bytes.fromhex("3031300D060960864801650304020105000420")
SHA1_INFO = bytes.fromhex("3021300906052B0E03021A05000414")
TRIES = 3
OK, NOT_FOUND, WRONG_LENGTH, NOT_ALLOWED = 0x9000, 0x6A82, 0x6700, 0x6985


# GET DATA of the PIN object (extended header lists): its counters, which a real card gave so, and its lengths, which OpenSC
# asks for before it verifies a PIN.
_PIN_COUNTERS = bytes.fromhex("4D087006BF810102A080")
_PIN_LENGTHS = bytes.fromhex("4D097007BF8101037F4180")


@dataclass
class Command:
    """A command APDU taken apart. `le` is None when no answer data is asked for, 0 for all there is."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes
    le: int | None


class Removed(Exception):
    """The card leaves the reader now."""


class Hang(Exception):
    """The card never answers this."""


@dataclass
class PracticeCard:
    """One card of either model. `tries` is the PIN counter; `log` the INS codes received, `pin_shown` the PINs."""

    personal: Personalisation
    model: str = "CPS3"

    def __post_init__(self) -> None:
        cps3 = self.model == "CPS3"
        self.references = (0x81, 0x82) if cps3 else (0x10, 0x20)
        identifiers = (APPLICATION + b"\x01", APPLICATION + b"\x02") if cps3 else (b"\x10", b"\x20")
        self.files = build(self.personal, references=self.references, identifiers=identifiers)
        self.atr = CPS3_ATR if cps3 else CPS4_ATR
        self.tries = TRIES
        self.log: list[int] = []
        self.pin_shown = 0
        self.signatures = 0
        self.reset()

    @property
    def signature_key(self) -> rsa.RSAPrivateKey:
        """The key that signs mail."""
        return self.personal.signature.key

    def reset(self) -> None:
        """Cold or warm reset: everything but the PIN counter is forgotten."""
        self.verified = False
        self.selected: bytes = MF
        self.environment: dict[int, tuple[int, int]] = {}
        self.waiting = b""
        self.chained = b""
        self.hashed: bytes | None = None
        self.channel_open = False

    def transmit(self, apdu: bytes) -> bytes:
        """One command APDU; data and status word. Raises Removed, Hang."""
        try:
            command = parse(apdu, t1=self.model == "CPS4")
        except ValueError:
            return WRONG_LENGTH.to_bytes(2, "big")
        self.log.append(command.ins)
        return self.execute(command)

    def execute(self, command: Command) -> bytes:
        """One command; data and status word. Raises Removed, Hang."""
        if command.ins == 0xC0:
            return self.get_response(command.le)
        self.waiting = b""
        data, status = self._dispatch(command)
        return self.answer(command, data, status)

    def answer(self, command: Command, data: bytes, status: int) -> bytes:
        """What goes on the wire: data at once, or a promise of it that GET RESPONSE redeems."""
        if not data or status != OK:
            return status.to_bytes(2, "big")
        if command.data and command.le is None:  # case 4: T=0 cannot give data in the same exchange
            self.waiting = data
            return bytes((0x61, min(len(data), 256) & 0xFF))
        if command.le is not None and command.ins != 0xB0 and (command.le or 256) != len(data) and command.le:
            return bytes((0x6C, len(data) & 0xFF))
        return data + OK.to_bytes(2, "big")

    def get_response(self, le: int | None) -> bytes:
        """The next octets that wait (T=0)."""
        if not self.waiting:
            return b"\x69\x85"
        size = le or 256
        if size > len(self.waiting):
            return bytes((0x6C, len(self.waiting) & 0xFF))
        part, self.waiting = self.waiting[:size], self.waiting[size:]
        return part + (bytes((0x61, min(len(self.waiting), 255))) if self.waiting else b"\x90\x00")

    def _dispatch(self, command: Command) -> tuple[bytes, int]:
        if command.ins == 0x70:
            self.channel_open = self.model == "CPS4"
            return b"", OK if self.channel_open else 0x6881
        channel = command.cla & 0x03
        if channel != (1 if self.model == "CPS4" and self.channel_open else 0):
            return b"", 0x6881
        handlers = {
            0xA4: self._select,
            0xB0: self._read,
            0xCB: self._get_data,
            0x20: self._verify,
            0x22: self._manage,
            0x2A: self._operate,
            0x88: self._authenticate,
            0x84: self._challenge,
        }
        handler = handlers.get(command.ins)
        return handler(command) if handler else (b"", 0x6D00)

    def _select(self, command: Command) -> tuple[bytes, int]:
        if command.p1 == 0x04:
            if command.data in (APPLICATION, ROOT) or APPLICATION.startswith(command.data):
                self.selected = APP if command.data != ROOT else MF
                fid = b"\x00\x01" if command.data != ROOT else MF
                return self._control(fid, 0, command, b"\x84" + bytes((len(command.data),)) + command.data), OK
            return b"", NOT_FOUND
        path = self._path(command)
        if path in (MF, APP):
            self.selected = path
            return self._control(path[-2:], 0, command), OK
        if path not in self.files:
            return b"", NOT_FOUND
        self.selected = path
        return self._control(path[-2:], self.size_of(path), command), OK

    def _path(self, command: Command) -> bytes:
        if command.p1 == 0x08 and not command.data.startswith(MF):
            return MF + command.data
        if command.p1 == 0x09 and not command.data.startswith(MF):
            base = self.selected if self.selected in (MF, APP) else self.selected[:-2]
            return base + command.data
        if command.p1 in (0x00, 0x02) and len(command.data) == 2:
            if command.data == MF:
                return MF
            base = self.selected if self.selected in (MF, APP) else self.selected[:-2]
            return base + command.data
        return command.data

    def size_of(self, path: bytes) -> int:
        """What the card says of a file's length."""
        return len(self.files[path])

    def _control(self, fid: bytes, size: int, command: Command, name: bytes = b"") -> bytes:
        """The FCP template; nothing when P2 asks for none."""
        if command.p2 & 0x0C == 0x0C:
            return b""
        kind = b"\x01" if size else b"\x38"
        body = (
            (tlv(0x80, size.to_bytes(2, "big")) if size else b"")
            + tlv(0x82, kind)
            + tlv(0x83, fid)
            + name
            + tlv(0xA1, bytes.fromhex("8C05130000001C"))
            + tlv(0x8A, b"\x05")
        )
        return tlv(0x62 if self.model == "CPS3" else 0x6F, body)

    def _read(self, command: Command) -> tuple[bytes, int]:
        content = self.files.get(self.selected)
        if content is None:
            return b"", 0x6986
        if self.selected[-2] == 0xD1 and self.selected[-1] >= 0x20 and not self.verified:
            return b"", 0x6982
        offset = command.p1 << 8 | command.p2
        if offset > len(content):
            return b"", 0x6B00
        return content[offset : offset + (command.le or 256)], OK

    def _get_data(self, command: Command) -> tuple[bytes, int]:
        if self.model != "CPS3":
            return b"", 0x6A88
        if command.data == _PIN_LENGTHS:
            content = tlv(0x7F41, tlv(0x80, b"\x04"), tlv(0x81, b"\x04"))
        elif command.data == _PIN_COUNTERS:
            counters = tlv(0x9A, bytes((TRIES,))) + tlv(0x9B, bytes((self.tries,)))
            content = tlv(0xA0, counters, tlv(0xA1, bytes.fromhex("8C06F3000013FF00")))
        else:
            return b"", 0x6A88
        return tlv(0x70, tlv(0xBF8101, content)), OK

    def _verify(self, command: Command) -> tuple[bytes, int]:
        if command.p2 != 0x01:
            return b"", 0x6A88
        if self.tries == 0:
            return b"", 0x6983
        if not command.data:
            return b"", OK if self.verified else 0x63C0 | self.tries
        self.pin_shown += 1
        if command.data.rstrip(b"\xff\x00") == self.personal.pin:
            self.tries, self.verified = TRIES, True
            return b"", OK
        self.tries, self.verified = self.tries - 1, False
        return b"", 0x63C0 | self.tries if self.tries else 0x6983

    def _manage(self, command: Command) -> tuple[bytes, int]:
        algorithm, reference = self.environment.get(command.p2, (0, 0))
        position = 0
        while position + 2 <= len(command.data):
            tag, size = command.data[position : position + 2]
            value = command.data[position + 2 : position + 2 + size]
            if len(value) != size:
                return b"", 0x6A80
            if tag == 0x80:
                algorithm = value[0]
            elif tag in (0x83, 0x84):
                reference = value[0]
            elif tag == 0x91:
                algorithm, reference = value[0], value[1] & 0x7F
            position += 2 + size
        self.environment[command.p2] = (algorithm, reference)
        return b"", OK

    def _operate(self, command: Command) -> tuple[bytes, int]:
        which = (command.p1, command.p2)
        if which == (0x90, 0xA0):
            return self._last_round(command)
        if which == (0x9E, 0x9A):
            return self._sign(command)
        if which == (0x80, 0x86):
            return self._decipher(command)
        return b"", 0x6A86

    def _last_round(self, command: Command) -> tuple[bytes, int]:
        self.hashed = command.data[2 : 2 + command.data[1]] if command.data[:1] == b"\x90" else None
        return b"", OK

    def _sign(self, command: Command) -> tuple[bytes, int]:
        algorithm, reference = self.environment.get(0xB6, (0, 0))
        expected = {0x42: SHA256_INFO, 0x12: SHA1_INFO, 0x28: SHA256_INFO, 0x0A: SHA1_INFO}
        if reference != self.references[0] or algorithm not in expected:
            return b"", 0x6A88
        if not self.verified:
            return b"", 0x6982
        size = 32 if expected[algorithm] == SHA256_INFO else 20
        digest = command.data or self.hashed or b""
        if len(digest) != size:
            return b"", 0x6A80
        self.signatures += 1
        key = self.signature_key
        return private(key, padded(key, expected[algorithm] + digest)), OK

    def _authenticate(self, command: Command) -> tuple[bytes, int]:
        if self.model != "CPS3" or self.environment.get(0xA4, (0, 0))[1] != self.references[1]:
            return b"", NOT_ALLOWED
        if not self.verified:
            return b"", 0x6982
        key = self.personal.authentication.key
        if len(command.data) > key.key_size // 8 * 2 // 5:
            return b"", WRONG_LENGTH
        self.signatures += 1
        return private(key, padded(key, command.data)), OK

    def _decipher(self, command: Command) -> tuple[bytes, int]:
        self.chained += command.data
        if command.cla & 0x10:
            return b"", OK
        block, self.chained = self.chained, b""
        if self.environment.get(0xB8, (0, 0))[1] != self.references[1]:
            return b"", 0x6A88
        if not self.verified:
            return b"", 0x6982
        key = self.personal.authentication.key
        if block[:1] != b"\x81" or len(block) != key.key_size // 8 + 1:
            return b"", 0x6A80
        clear = private(key, block[1:])
        if self.model == "CPS4":
            return clear, OK
        head, _, rest = clear[2:].partition(b"\0")
        return (rest, OK) if clear[:2] == b"\x00\x02" and len(head) >= 8 else (b"", 0x6A80)

    def _challenge(self, command: Command) -> tuple[bytes, int]:
        return bytes(range(command.le or 8)), OK


def parse(apdu: bytes, *, t1: bool) -> Command:
    """A command APDU under T=0: head, then Le alone, or Lc and data (and Le, under T=1). Raises ValueError for anything
    else."""
    if len(apdu) < 4:
        raise ValueError
    cla, ins, p1, p2 = apdu[:4]
    if len(apdu) <= 5:
        return Command(
            cla, ins, p1, p2, b"", apdu[4] if len(apdu) == 5 and apdu[4] else (None if len(apdu) == 4 else 0)
        )
    if t1 and len(apdu) == 6 + apdu[4]:
        return Command(cla, ins, p1, p2, apdu[5:-1], apdu[-1])
    if len(apdu) != 5 + apdu[4]:
        raise ValueError
    return Command(cla, ins, p1, p2, apdu[5:], None)


def padded(key: rsa.RSAPrivateKey, info: bytes) -> bytes:
    return b"\x00\x01" + b"\xff" * (key.key_size // 8 - len(info) - 3) + b"\x00" + info


def private(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """The raw RSA private operation, which no library gives any more (CRT, RFC 8017 §5.1.2)."""
    numbers = key.private_numbers()
    value = int.from_bytes(block, "big")
    first = pow(value % numbers.p, numbers.dmp1, numbers.p)
    second = pow(value % numbers.q, numbers.dmq1, numbers.q)
    result = second + (numbers.iqmp * (first - second) % numbers.p) * numbers.q
    return result.to_bytes(math.ceil(key.key_size / 8), "big")
