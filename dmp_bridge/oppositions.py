"""Reading statements of patients about the deposit of their documents: an import file, or a hospital's PAM-FR message (dmp.md
§7.4, §8.6). Bytes in, values out; nothing of a line is quoted in an error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ihe.hl7v2 import Hl7Error, parse
from ihe.ins import INS_OIDS, is_ins_oid, is_valid_matricule

MAX_IMPORT = 64 * 1024 * 1024


class ImportRefused(Exception):
    """An import file that cannot be used; the text names the line and the column, never a value."""


@dataclass(frozen=True, slots=True)
class Told:
    """One line of an import: a patient and their will."""

    ins: str = field(repr=False)
    oid: str
    opposed: bool
    at: datetime


def read_oppositions(data: bytes, *, at: datetime) -> Iterator[Told]:
    """The statements of an import: a CSV with columns `ins;oid;opposition[;date]`, or an HL7 PAM-FR message (ZFA, dmp.md §8.6).

    In CSV, `opposition` is `IO`/`O`/`oui` or `INO`/`N`/`non`; `date` is ISO 8601 with its offset, `at` when absent.
    Raises ImportRefused.
    """
    if len(data) > MAX_IMPORT:
        raise ImportRefused("fichier trop volumineux / file too large")
    if data.lstrip(b"\xef\xbb\xbf\r\n \x0b").startswith(b"MSH"):
        yield _pam(data)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ImportRefused("le fichier n'est pas en UTF-8 / the file is not UTF-8") from None
    reader = csv.DictReader(io.StringIO(text), delimiter=";")
    if not {"ins", "oid", "opposition"} <= {(name or "").strip() for name in reader.fieldnames or ()}:
        raise ImportRefused("ligne 1 : colonnes attendues / columns expected: ins;oid;opposition[;date]")
    for number, row in enumerate(reader, start=2):
        yield _line(number, {(key or "").strip(): (value or "").strip() for key, value in row.items() if key}, at)


_YES = {"IO": True, "O": True, "OUI": True, "INO": False, "N": False, "NON": False}


def _line(number: int, row: dict[str, str], at: datetime) -> Told:
    if row["oid"] not in INS_OIDS:
        raise ImportRefused(f"ligne / line {number}: oid")
    if not is_valid_matricule(row["ins"]):
        raise ImportRefused(f"ligne / line {number}: ins (matricule et clé / number and key)")
    if row["opposition"].upper() not in _YES:
        raise ImportRefused(f"ligne / line {number}: opposition (IO, INO)")
    moment = at
    if row.get("date"):
        try:
            moment = datetime.fromisoformat(row["date"])
        except ValueError:
            raise ImportRefused(f"ligne / line {number}: date (ISO 8601)") from None
        if moment.tzinfo is None:
            raise ImportRefused(f"ligne / line {number}: date sans fuseau / without offset")
    return Told(row["ins"], row["oid"], _YES[row["opposition"].upper()], moment)


def _pam(data: bytes) -> Told:
    """The second-to-last pair of ZFA: `INO` or `IO`, and its date (dmp.md §7.4); the identity must be qualified."""
    try:
        message = parse(data)
    except Hl7Error as error:
        raise ImportRefused(f"HL7 {error.location}: {error.message}") from None
    pid, consent = message.first("PID"), message.first("ZFA")
    if pid is None or consent is None:
        raise ImportRefused("HL7: PID et ZFA attendus / expected")
    word, when = consent.get(9).upper(), consent.get(10)
    if word not in ("IO", "INO"):
        raise ImportRefused("HL7 ZFA-9: IO ou / or INO")
    if pid.get(32) != "VALI":
        raise ImportRefused("HL7 PID-32: identité non qualifiée / identity not qualified")
    for value in pid.repetitions(3):
        root = pid.component(value, 4, 2)
        if is_ins_oid(root):
            try:
                moment = datetime.strptime(when[:14].ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            except ValueError:
                raise ImportRefused("HL7 ZFA-10: date") from None
            return Told(pid.component(value, 1), root, word == "IO", moment)
    raise ImportRefused("HL7 PID-3: pas d'INS / no INS")
