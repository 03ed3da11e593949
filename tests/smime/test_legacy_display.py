"""A hidden Subject stands at the head of the text, for programs that do not know RFC 9788; nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mime
import smime
from smime.legacy_display import with_subject
from tests.smime.certificates import AT
from tests.smime.test_coverage import ME, YOU, opened

SUBJECT = "Résultats <urgent>"
PLAIN = mime.leaf("text/plain", b"Bonjour,\r\nvoici.\r\n")
HTML = mime.leaf("text/html", b"<html><BODY class='x'>\r\n<p>Bonjour</p></BODY></html>")
PDF = mime.leaf("application/pdf", b"%PDF", filename="cr.pdf")
NOTE = mime.leaf("text/plain", b"une note\r\n", filename="note.txt")
DISPLAY = '<div class="header-protection-legacy-display"><pre>Subject: Résultats &lt;urgent&gt;</pre></div>'


def texts(entity: bytes) -> list[str]:
    return [
        part.decoded(entity).decode("utf-8")
        for part in mime.parse(entity).walk()
        if part.parameters.get("hp-legacy-display") == "1"
    ]


def test_a_plain_text_begins_with_the_subject() -> None:
    assert texts(with_subject(PLAIN, SUBJECT)) == [f"Subject: {SUBJECT}\r\n\r\nBonjour,\r\nvoici.\r\n"]


def test_a_page_shows_it_first() -> None:
    (page,) = texts(with_subject(HTML, SUBJECT))
    assert page == f"<html><BODY class='x'>{DISPLAY}\r\n\r\n<p>Bonjour</p></BODY></html>"
    (bare,) = texts(with_subject(mime.leaf("text/html", b"<p>Bonjour</p>"), SUBJECT))
    assert bare.startswith(DISPLAY)


def test_every_main_part_shows_it_and_no_attachment() -> None:
    both = mime.multipart("alternative", [PLAIN, mime.multipart("related", [HTML, PDF])])
    entity = with_subject(mime.multipart("mixed", [both, PDF, NOTE]), SUBJECT)
    assert [text[:8] for text in texts(entity)] == ["Subject:", "<html><B"]
    assert PDF in entity and NOTE in entity


@pytest.mark.parametrize(
    "entity",
    [
        PDF,
        NOTE,
        b"Content-Type: text/plain; charset=utf-8\r\n\r\n\xff\xfe not UTF-8\r\n",
        b"Content-Type: text/plain; charset=x-unknown\r\n\r\nhello\r\n",
        b"\r\n8-bit without a charset: \xc3\xa9\r\n",
        mime.multipart("signed", [PLAIN, PDF]),
        mime.multipart("mixed", [PDF, PLAIN]),
        with_subject(PLAIN, "déjà là"),
    ],
)
def test_what_stays_as_it_is(entity: bytes) -> None:
    assert with_subject(entity, SUBJECT) == entity
    assert with_subject(PLAIN, "") == PLAIN


@given(st.text(max_size=60), st.text(max_size=200), st.sampled_from(["iso-8859-15", "utf-8", "windows-1252"]))
def test_taking_the_element_away_gives_the_text_back(subject: str, text: str, charset: str) -> None:
    octets = text.encode(charset, "replace").replace(b"\r", b"").replace(b"\n", b"\r\n")
    entity = mime.leaf("text/plain", octets, parameters={"charset": charset}, disposition="inline")
    for shown in texts(with_subject(entity, subject)):
        head, _, rest = shown.partition("\r\n\r\n")
        assert head == " ".join(f"Subject: {subject}".split()) and rest == octets.decode(charset)


def test_in_a_message_signed_and_encrypted() -> None:
    raw = mime.message([("From", "medecin@test.mssante.fr"), ("Subject", SUBJECT)], PLAIN)
    for sealed in (
        smime.encrypt_message(
            smime.sign_message(raw, ME.signer, at=AT, protect=smime.HeaderMode.CIPHER), [YOU.certificate]
        ),
        smime.encrypt_message(raw, [YOU.certificate], protect=smime.HeaderMode.CIPHER),
    ):
        one = opened(sealed)
        assert one.headers is not None and one.headers.text("Subject") == SUBJECT
        assert texts(one.content) == [f"Subject: {SUBJECT}\r\n\r\nBonjour,\r\nvoici.\r\n"]
        assert all(found.verdict is smime.Verdict.VALID for found in one.verifications)
    clear = smime.sign_message(raw, ME.signer, at=AT, protect=smime.HeaderMode.CLEAR)
    assert PLAIN.partition(b"\r\n\r\n")[2] in clear and texts(clear) == [], "nothing hidden, nothing repeated"
