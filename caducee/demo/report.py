"""The report of the demonstration: a hospital discharge report as IHE_XDM.zip and PDF/A, in a message (mssante.md §8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

import mime
from ihe.cda import read_cda
from ihe.cda_model import CdaHeader
from ihe.ebrim import entry_from_cda, lot, xds_author
from ihe.naming import pdf_file_name, subject_line
from ihe.pdf import make_pdf_a
from ihe.samples import OID_ROOT, make_crh_n1, synthetic_author, synthetic_patient, synthetic_structure
from ihe.values import Code
from ihe.xdm import XdmContent, write_xdm
from proxy.codes import CODE_FIELD

PARIS = ZoneInfo("Europe/Paris")
CARDIOLOGY_SPECIALITY = Code(
    "G15_10/SM04", "1.2.250.1.213.1.1.4.5", "Médecin - Cardiologie et maladies vasculaires (SM)"
)
"""Speciality of the demonstration's author (JDV_J01)."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes the report: the author's national id (8 + RPPS) and names, and the structure."""

    national_id: str
    surname: str
    given_name: str
    structure_id: str
    structure_name: str


@dataclass(frozen=True, slots=True)
class Report:
    """A document ready to be sent. `header` is read back from the CDA bytes."""

    header: CdaHeader
    cda: bytes = field(repr=False)
    pdf: bytes = field(repr=False)
    package: bytes = field(repr=False)


def make_report(writer: Writer, *, at: datetime, seed: int = 1) -> Report:
    """A synthetic discharge report (LOINC 34112-3) about the synthetic patient `seed`, packed as IHE XDM."""
    local = at.astimezone(PARIS).replace(microsecond=0)
    patient = synthetic_patient(seed)
    author = synthetic_author(writer.national_id, writer.surname, writer.given_name, CARDIOLOGY_SPECIALITY)
    structure = synthetic_structure(writer.structure_id, writer.structure_name)
    lines = [
        f"{writer.structure_name} - Service de cardiologie",
        "",
        "Motif : douleur thoracique d'effort.",
        "Évolution : favorable sous traitement médical. Échographie normale à la sortie.",
        "Conduite à tenir : consultation de contrôle dans un mois ; merci d'adapter le bêtabloquant.",
        "",
        f"Dr {writer.given_name} {writer.surname}. Document fictif : aucun patient réel n'est concerné.",
    ]
    pdf = make_pdf_a("Compte rendu d'hospitalisation", lines, at=local, author=f"Dr {writer.surname}")
    cda = make_crh_n1(patient, author, structure, at=local, pdf=pdf)
    header = read_cda(cda)
    return Report(header, cda, pdf, _package(header, cda, pdf, at))


def _package(header: CdaHeader, cda: bytes, pdf: bytes, at: datetime) -> bytes:
    entry = entry_from_cda(header, cda)
    author = header.authors[0]
    submission = lot(
        header,
        [entry],
        unique_id=f"{OID_ROOT}.7.{int(at.timestamp() * 1000)}",
        source_id=OID_ROOT,
        author=xds_author(author),
        at=at,
        title=header.title,
    )
    return write_xdm([XdmContent(entry, cda, pdf)], submission, at=at, sender=author.name.family)


def report_message(report: Report, *, sender: str, recipients: Sequence[str], code: str = "") -> bytes:
    """The message of ECO.2.1.1: one patient, the package, and the same document as PDF/A. CRLF, clear.

    `sender` is a From value (label and address); `code` the send code, if any.
    """
    text = "Chère consœur, cher confrère,\r\n\r\nVeuillez trouver ci-joint le compte rendu de votre patient.\r\n"
    body = mime.multipart(
        "mixed",
        [
            mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"}, disposition=None),
            mime.leaf("application/zip", report.package, filename="IHE_XDM.zip"),
            mime.leaf("application/pdf", report.pdf, filename=pdf_file_name(report.header)),
        ],
    )
    fields = [("From", sender), ("To", ", ".join(recipients)), ("Subject", subject_line([report.header]))]
    return mime.message(fields + ([(CODE_FIELD, code)] if code else []), body)
