"""Small values shared by the codecs: coded values, identifiers, HL7 points in time. No parsing of documents here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

# ITU-T X.660 arcs without leading zeros; the 64-character bound is CI-SIS (and XDS) practice.
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_TIME = re.compile(r"([0-9]{4,14})(?:\.[0-9]{1,6})?(?:([+-])([0-9]{2})([0-9]{2}))?")
_LENGTHS = frozenset({4, 6, 8, 10, 12, 14})


def is_oid(value: str) -> bool:
    """A plain OID of at most 64 characters, digits and dots, no leading zero in an arc (dmp.md §4.2)."""
    return len(value) <= 64 and _OID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: code, OID (or URN) of its system, label."""

    code: str
    system: str = ""
    display: str = ""


@dataclass(frozen=True, slots=True)
class Identifier:
    """An HL7 instance identifier: root OID and extension."""

    root: str
    extension: str = ""


@dataclass(frozen=True, slots=True)
class Hl7Time:
    """A point in time with its precision. `moment` is aware; `digits` is 4 (year) to 14 (second).

    `offset_known` is False when the source gave no UTC offset: the moment is then *assumed* to be UTC, which the reader
    of a document must be able to tell.
    """

    moment: datetime
    digits: int
    offset_known: bool

    def dtm(self) -> str:
        """The XDS form: UTC digits, precision kept (dmp.md §3.3). A date without an hour is not shifted."""
        return self.moment.astimezone(UTC).strftime("%Y%m%d%H%M%S")[: self.digits]


def parse_hl7_time(value: str) -> Hl7Time:
    """Reads `YYYY[MM[DD[hh[mm[ss[.f]]]]]][±ZZzz]`. Raises ValueError (without quoting the value)."""
    match = _TIME.fullmatch(value.strip())
    if match is None or len(match[1]) not in _LENGTHS:
        raise ValueError("not an HL7 time stamp")
    digits, sign, hours, minutes = match[1], match[2], match[3], match[4]
    zone: timezone = UTC
    if sign is not None and len(digits) > 8:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(offset if sign == "+" else -offset)
    padded = digits + "00000101000000"[len(digits) :]
    fields = (padded[:4], padded[4:6], padded[6:8], padded[8:10], padded[10:12], padded[12:14])
    year, month, day, hour, minute, second = (int(field) for field in fields)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("not an HL7 time stamp") from None
    return Hl7Time(moment, len(digits), sign is not None)


def to_dtm(moment: datetime) -> str:
    """An aware datetime as the XDS DTM `yyyyMMddHHmmss` in UTC. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("an aware datetime is needed")
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S")


def from_dtm(value: str) -> datetime:
    """An XDS DTM (4 to 14 digits, UTC) as an aware datetime. Raises ValueError."""
    return parse_hl7_time(value).moment.astimezone(UTC)
