"""Writing the PDF/A-1b copy of a document: text only, one embedded font, deterministic (dmp.md §5.3, ECO.2.1.5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import DocumentCompliance, XPos, YPos

DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


# fpdf2 writes the clock into these two fields; the replacement has the same length, so the cross-references stay right.
_CLOCK = re.compile(rb'(xmp:(?:ModifyDate|MetadataDate)=")[0-9T:-]{19}[+-][0-9]{2}:[0-9]{2}"')


class FontMissing(Exception):
    """The font file is not there: PDF/A needs an embedded font (on Debian: package fonts-dejavu-core)."""


class _Pdf(FPDF):
    """fpdf2 with a document identifier made from the content, so that the same text gives the same bytes."""

    seed = ""

    def file_id(self) -> str:
        digest = hashlib.sha256(self.seed.encode("utf-8")).hexdigest()[:32].upper()
        return f"<{digest}><{digest}>"


def make_pdf_a(
    title: str, lines: Sequence[str], *, at: datetime, author: str = "", font: Path = DEJAVU, language: str = "fr-FR"
) -> bytes:
    """A PDF/A-1b of A4 pages: the title, then the lines (an empty line is a space). `at` is aware, and stamps the file.

    Raises FontMissing when `font`, a TrueType file, is not there.
    """
    if not font.is_file():
        raise FontMissing(f"police absente / font missing: {font.name}")
    pdf = _Pdf(format="A4", enforce_compliance=DocumentCompliance.PDFA_1B)
    pdf.seed = "\0".join([title, author, at.isoformat(), *lines])
    pdf.set_creation_date(at)
    pdf.set_lang(language)
    pdf.set_title(title)
    if author:
        pdf.set_author(author)
    pdf.add_font("body", fname=str(font))
    pdf.set_auto_page_break(True, margin=20)
    pdf.add_page()
    pdf.set_font("body", size=15)
    pdf.multi_cell(0, 8, title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_font("body", size=10.5)
    for line in ["", *lines]:
        pdf.multi_cell(0, 6, line or " ", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    stamp = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00").encode("ascii")
    return _CLOCK.sub(lambda match: match[1] + stamp + b'"', bytes(pdf.output()))
