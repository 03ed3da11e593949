"""HL7 v2 messages in vertical-bar form (ER7): a small bounded reader, and the writing of acknowledgements (dmp.md §8).

Invariants: bytes in, values out; only Hl7Error leaves; bounded in bytes, segments and fields. Values are read by place
(segment, field,
repetition, component), with the message's own separators; what is absent is "". Line ends may be CR, LF or both (§8.7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

MAX_SIZE = 48 * 1024 * 1024
MAX_SEGMENTS = 2000
MAX_FIELDS = 256
_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")
_CHARSETS = {"": "utf-8", "UNICODE UTF-8": "utf-8", "UNICODE": "utf-8", "8859/1": "iso8859-1", "8859/15": "iso8859-15"}
_ESCAPES = {"F": 0, "S": 1, "R": 2, "E": 3, "T": 4}
_ESCAPED = re.compile(r"\\([FSRET]|X[0-9A-Fa-f]{2,64}|\.br)\\")


class Hl7Error(Exception):
    """The bytes are not a message that we read. `code` is an HL7 table 0357 code (100 sequence, 101 missing field, 102 data type,
    103 value, 200 type, 201 event, 203 version); `location` a place such as `MSH-9`; no value is quoted."""

    def __init__(self, code: str, location: str, message: str) -> None:
        super().__init__(f"{code} {location}: {message}")
        self.code = code
        self.location = location
        self.message = message


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. `fields[0]` is its name; MSH is shifted so that `fields[n]` is field n there too."""

    fields: tuple[str, ...] = field(repr=False)
    separators: str = "|^~\\&"

    @property
    def name(self) -> str:
        """The three letters."""
        return self.fields[0]

    def raw(self, number: int) -> str:
        """A whole field, as it was sent."""
        return self.fields[number] if number < len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The repetitions of a field, empty ones left out."""
        return [one for one in self.raw(number).split(self.separators[2]) if one]

    def get(self, number: int, component: int = 1, sub: int = 0) -> str:
        """A component of the first repetition of a field, unescaped; `sub` picks a subcomponent (1 is the first)."""
        first = self.raw(number).split(self.separators[2], 1)[0]
        return self.component(first, component, sub)

    def component(self, value: str, component: int, sub: int = 0) -> str:
        """A component of a repetition."""
        pieces = value.split(self.separators[1])
        piece = pieces[component - 1] if component <= len(pieces) else ""
        if sub:
            parts = piece.split(self.separators[4])
            piece = parts[sub - 1] if sub <= len(parts) else ""
        return self._unescaped(piece)

    def _unescaped(self, value: str) -> str:
        escape = self.separators[3]
        if escape not in value:
            return value

        def plain(match: re.Match[str]) -> str:
            word = match[1]
            if word in _ESCAPES:
                return self.separators[_ESCAPES[word]]
            if word == ".br":
                return "\n"
            try:
                return bytes.fromhex(word[1:]).decode("utf-8")
            except ValueError:
                return ""

        return _ESCAPED.sub(plain, value.replace(escape, "\\"))


@dataclass(frozen=True, slots=True)
class Message:
    """A read message: its segments in order, MSH first."""

    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    def all(self, name: str) -> Iterator[Segment]:
        """The segments of a name, in order."""
        return (one for one in self.segments if one.name == name)

    def first(self, name: str) -> Segment | None:
        """The first segment of a name, or None."""
        return next(self.all(name), None)

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.header.get(10)

    @property
    def kind(self) -> tuple[str, str]:
        """Message code and trigger event (MSH-9.1, MSH-9.2)."""
        return self.header.get(9, 1), self.header.get(9, 2)


def is_hl7(data: bytes) -> bool:
    """True when the bytes begin as a message does."""
    return data.lstrip(b"\x0b\r\n \xef\xbb\xbf")[:4] == b"MSH|"


def parse(data: bytes) -> Message:
    """Reads one message. Raises Hl7Error."""
    if len(data) > MAX_SIZE:
        raise Hl7Error("199", "MSH", "the message is too large")
    data = data.lstrip(b"\x0b\r\n \xef\xbb\xbf").rstrip(b"\x1c\r\n ")
    if data[:3] != b"MSH" or len(data) < 9:
        raise Hl7Error("100", "MSH", "a message begins with MSH")
    try:
        separators = data[3:8].decode("ascii")
    except UnicodeDecodeError:
        raise Hl7Error("102", "MSH-2", "separators are ASCII") from None
    if len(set(separators)) != 5 or any(one.isalnum() or one.isspace() for one in separators):
        raise Hl7Error("102", "MSH-2", "five different separators are expected")
    text = _decoded(data, separators[0])
    lines = [line for line in re.split(r"[\r\n]+", text) if line]
    if len(lines) > MAX_SEGMENTS:
        raise Hl7Error("199", "MSH", "too many segments")
    segments = tuple(_segment(line, separators) for line in lines)
    if any(one.name == "MSH" for one in segments[1:]):
        raise Hl7Error("100", "MSH", "one message at a time")
    return Message(segments)


def _decoded(data: bytes, separator: str) -> str:
    first = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("latin-1").split(separator)
    charset = first[17].split("~")[0].strip() if len(first) > 17 else ""
    encoding = _CHARSETS.get(charset)
    if encoding is None:
        raise Hl7Error("103", "MSH-18", "unknown character set")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Hl7Error("102", "MSH-18", "the text is not in the announced character set") from None


def _segment(line: str, separators: str) -> Segment:
    fields = line.split(separators[0], MAX_FIELDS)
    if len(fields) > MAX_FIELDS:
        raise Hl7Error("199", line[:3] if _NAME.match(line) else "", "too many fields")
    if _NAME.fullmatch(fields[0]) is None:
        raise Hl7Error("100", "", "a line is no segment")
    if fields[0] == "MSH":
        # MSH-1 is the separator itself.
        fields = ["MSH", separators[0], *fields[1:]]
    return Segment(tuple(fields), separators)


_ESCAPING = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\"}


def escape(value: str) -> str:
    """`value` fit for a field: separators escaped, line ends and control characters as spaces."""
    return "".join(_ESCAPING.get(char, char if char.isprintable() else " ") for char in value)


def timestamp(at: datetime) -> str:
    """`YYYYMMDDHHMMSS+0000`."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def write(segments: Sequence[Sequence[str]]) -> bytes:
    """A message from its fields, written as they are (see `escape`), in UTF-8 with CR line ends. The first is MSH,
    from MSH-3 on."""
    head, *rest = segments
    lines = ["|".join(["MSH", "^~\\&", *head]), *("|".join(fields) for fields in rest)]
    return ("\r".join(line.rstrip("|") for line in lines) + "\r").encode("utf-8")


def build_ack(
    message: Message | None,
    code: str,
    *,
    control_id: str,
    at: datetime,
    errors: Sequence[Hl7Error] = (),
    text: str = "",
) -> bytes:
    """The technical acknowledgement of `message` (None when it could not be read): `code` AA, AE or AR (dmp.md §8.4)."""
    header = message.header if message is not None else None

    def said(number: int) -> str:
        return header.raw(number) if header is not None else ""

    event = message.kind[1] if message is not None else ""
    kind = f"ACK^{escape(event)}^ACK" if event else "ACK"
    version = escape(header.get(12)) if header is not None and header.get(12) else "2.6"
    mode = escape(header.get(11)) if header is not None and header.get(11) else "P"
    head = [said(5), said(6), said(3), said(4), timestamp(at), "", kind, control_id, mode, version]
    head += ["", "", "", "", "FRA", "UNICODE UTF-8"]
    answered = escape(message.control_id) if message is not None else ""
    segments: list[list[str]] = [head, ["MSA", code, answered, escape(text)]]
    for error in errors:
        segments.append(
            ["ERR", "", escape(error.location), f"{error.code}^{_MEANING.get(error.code, '')}^HL70357", "E"]
        )
    return write(segments)


_MEANING = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "198": "Non-conformant cardinality",
    "199": "Other HL7 error",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "207": "Application error",
}


@dataclass(frozen=True, slots=True)
class Business:
    """A business acknowledgement to the creator of a document (ZAM, dmp.md §8.4). `event` is Z01 (DMP), Z02 (MSSanté
    receipt) or Z03
    (read); `answers` the MSH-10 of the hand-over; `recipient` an address (Z02, Z03); `code` and `label` say why not."""

    event: str
    answers: str
    success: bool
    recipient: str = ""
    code: str = ""
    label: str = ""


_ZAM = {
    "Z01": ("ACK_RECEPTION_DMP", "Accusé de réception DMP", "DMP_ERROR_CODE", ""),
    "Z02": (
        "ACK_RECEPTION_MSS",
        "Accusé de réception MSSanté",
        "SMTPERRORCODE",
        "DESTINATAIRE_MSS^Destinataire MSSanté",
    ),
    "Z03": ("ACK_LECTURE_MSS", "Accusé de lecture", "SMTPERRORCODE", "LECTEUR_MSS^Lecteur du courriel MSSanté"),
}


def build_zam(
    what: Business, *, sending: tuple[str, str], receiving: tuple[str, str], control_id: str, at: datetime
) -> bytes:
    """A ZAM message; `sending` and `receiving` are application and facility."""
    name, label, system, place = _ZAM[what.event]
    head = [*map(escape, sending), *map(escape, receiving), timestamp(at), "", f"ZAM^{what.event}^ZAM_Z01", control_id]
    head += ["P", "2.6", "", "", "", "", "FRA", "UNICODE UTF-8", "", "", "2.1^CISIS_CDA_HL7_V2"]
    yes = "Y" if what.success else "N"
    obx = ["OBX", "1", "CWE", f"{name}^{label}^AckMetierZAM", escape(what.answers), f"{yes}^^expandedYes-NoIndicator"]
    segments: list[list[str]] = [head, ["EVN", "", timestamp(at)], [*obx, "", "", "", "", "", "F"]]
    if place and what.recipient:
        address = ["OBX", "2", "XTN", f"{place}^AckMetierZAM", "", f"^^X.400^{escape(what.recipient)}"]
        segments.append([*address, "", "", "", "", "", "F"])
    if not what.success:
        said = f"{escape(what.code)}^{escape(what.label)}^{system}"
        segments.append(["ERR", "", "", "207^Application error^messageErrorCondition", "E", said])
    return write(segments)


def read_ack(data: bytes) -> tuple[str, str]:
    """MSA-1 and MSA-2 of an acknowledgement. Raises Hl7Error."""
    message = parse(data)
    answer = message.first("MSA")
    if message.kind[0] != "ACK" or answer is None or not answer.get(1):
        raise Hl7Error("200", "MSA", "an acknowledgement is expected")
    return answer.get(1), answer.get(2)
