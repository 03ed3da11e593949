"""Names that a document message must carry: its subject line and the file names of its PDF copies (mssante.md §8).

ECO.2.1.3 (subject), ECO.2.1.6 (file name). The subject holds the patient's identity: never log what these functions return.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ihe.cda_model import CdaHeader, Patient
from ihe.codes import document_type

SUBJECT_PREFIX = "XDM/1.0/DDM"
_LABEL_LENGTH = 40
_UNSAFE = re.compile(r'[\\/:*?"<>|_\x00-\x1f\x7f]+')


def unaccented(text: str) -> str:
    """`text` without diacritics; ligatures œ and æ are written in two letters."""
    for ligature, letters in (("œ", "oe"), ("Œ", "OE"), ("æ", "ae"), ("Æ", "AE")):
        text = text.replace(ligature, letters)
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _label(header: CdaHeader) -> str:
    known = document_type(header.type.code)
    label = header.type.display or (known.label if known is not None else "") or header.type.code
    return _one_line(label)[:_LABEL_LENGTH].strip()


def _surname(patient: Patient) -> str:
    return unaccented(_one_line(patient.birth_name or patient.used_name)).upper()


def _given(patient: Patient) -> str:
    return unaccented(_one_line(patient.first_birth_given or patient.used_given))


def subject_line(headers: Sequence[CdaHeader]) -> str:
    """`XDM/1.0/DDM+<label ≤40> <NAME> <given> <JJ/MM/AAAA>`, or `N documents` for several (ECO.2.1.3).

    One message, one patient (ECO.2.1.1): ValueError when the headers are empty or speak of several patients.
    """
    if not headers:
        raise ValueError("at least one document is needed")
    patient = headers[0].patient
    if any((item.patient.ins, item.patient.ins_oid) != (patient.ins, patient.ins_oid) for item in headers):
        raise ValueError("one message concerns one patient")
    label = _label(headers[0]) if len(headers) == 1 else f"{len(headers)} documents"
    words = [label, _surname(patient), _given(patient)]
    digits = patient.birth_date[:8]
    if len(digits) == 8 and digits.isascii() and digits.isdigit():
        words.append(f"{digits[6:]}/{digits[4:6]}/{digits[:4]}")
    return f"{SUBJECT_PREFIX}+" + " ".join(word for word in words if word)


def pdf_file_name(header: CdaHeader, record_number: str = "") -> str:
    """`<AAAAMMJJ of the act>_<type ≤40>_<NAME>_<given>[_<record number>].pdf` (ECO.2.1.6).

    The act's date is that of the service event, else of the document, as the document's own clock shows it.
    """
    moment = header.service_start or header.effective
    pieces = [
        moment.moment.strftime("%Y%m%d"),
        _label(header),
        _surname(header.patient),
        _given(header.patient),
        record_number,
    ]
    safe = [_UNSAFE.sub(" ", _one_line(piece)).strip() for piece in pieces]
    return "_".join(piece for piece in safe if piece) + ".pdf"
