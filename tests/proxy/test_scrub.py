"""Taking codes out of messages: given ones, quoted ones, in every encoding; and never touching anything else."""

from __future__ import annotations

import base64
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mime
from proxy import CODE_FIELD, codes, scrub

CODE = codes.new_code()
TEXT = CODE.text
KNOWN = {CODE.code_id: CODE.digest}


def message(subject: str, body: bytes = b"Bonjour\r\n", *more: tuple[str, str]) -> bytes:
    fields = [("From", "a@b.mssante.fr"), ("Subject", subject), *more]
    return mime.message(fields, mime.leaf("text/plain", body, parameters={"charset": "utf-8"}, disposition=None))


def leaks(raw: bytes) -> bool:
    """Whether the code is anywhere, in any decoding a reader may make."""
    seen = [raw, quopri.decodestring(raw)]
    for part in mime.parse(raw).walk():
        seen += [part.decoded(raw), *(mime.decode_words(field.text).encode() for field in part.fields)]
    plain = TEXT.replace("-", "").lower().encode()
    folded = (bytes(c for c in one.lower() if c in b"0123456789abcdefghijklmnopqrstuvwxyz") for one in seen)
    return any(plain in one for one in folded)


@pytest.mark.parametrize(
    ("subject", "left"),
    [
        (f"[{TEXT}] Avis", "Avis"),
        (f"Avis [{TEXT}]", "Avis"),
        (f"Re: TR : [{TEXT}] Avis médical", "Re: TR : Avis médical"),
        (f"[EXT] [{TEXT.lower()}] Résultats", "[EXT] Résultats"),
        (f"Avis é [ {TEXT.replace('-', ' ')} ]", "Avis é"),
        (f"[{TEXT.replace('-', chr(0x2011))}] Avis", "Avis"),
    ],
    ids=["start", "end", "reply", "small letters", "spaces", "other hyphens"],
)
def test_a_code_in_the_subject_is_given_and_gone(subject: str, left: str) -> None:
    raw, given_ = scrub.take(message(subject))
    assert mime.parse(raw).get("Subject") == left
    assert [codes.normalise(one) for one in given_.codes] == [TEXT.replace("-", "")]
    assert not leaks(raw)


def test_a_code_cut_between_two_encoded_words_is_found() -> None:
    cut = len(TEXT) // 2
    words = " ".join(
        f"=?utf-8?B?{base64.b64encode(one.encode()).decode()}?=" for one in (f"[{TEXT[:cut]}", f"{TEXT[cut:]}] Avis é")
    )
    raw = f"From: a@b.fr\r\nSubject: {words}\r\n\r\nx\r\n".encode()
    clean, given_ = scrub.take(raw)
    assert given_.codes == (TEXT,)
    assert mime.parse(clean).get("Subject") == "Avis é"


@pytest.mark.parametrize(
    "subject", ["[URGENT] Avis", "Compte rendu [2026-11-21]", "XDM/1.0/DDM+1.2.3", "[sans suite] x", ""]
)
def test_other_subjects_stay_byte_for_byte(subject: str) -> None:
    raw = message(subject)
    assert scrub.take(raw) == (raw, scrub.Given((), False))


def test_look_alike_letters_are_taken_out_and_given_as_they_are() -> None:
    forged = TEXT[:-1] + "\N{CYRILLIC CAPITAL LETTER A}"
    raw, given_ = scrub.take(message(f"[{forged}] Avis"))
    assert mime.parse(raw).get("Subject") == "Avis"
    assert [codes.normalise(one) for one in given_.codes] == [None]


def test_a_code_in_the_middle_of_a_subject_is_gone_and_not_given() -> None:
    raw, given_ = scrub.take(message(f"Avis du [{TEXT}] Dr Martin"))
    assert given_.codes == ()
    assert not leaks(raw)


@pytest.mark.parametrize("tag", ["[sans chiffrement]", "[Unencrypted]"])
def test_the_sender_may_accept_to_send_in_clear(tag: str) -> None:
    raw, given_ = scrub.take(message(f"{tag} Avis"))
    assert (mime.parse(raw).get("Subject"), given_.accepts_clear) == ("Avis", True)


QUOTE = (
    f"Merci.\r\n\r\n> Subject: [{TEXT}] Avis\r\n> {CODE_FIELD}: {TEXT}\r\n> {TEXT[:11]}\r\n> {TEXT[11:]}\r\n"
    f"> {TEXT.replace('-', '')} ou {TEXT.replace('-', ' ')} ou {TEXT.lower()} ou {TEXT.replace('-', chr(0x2013))}\r\nFin.\r\n"
)


@pytest.mark.parametrize("encoding", ["8bit", "quoted-printable", "base64"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "windows-1252"])
def test_a_quoted_code_is_gone_in_every_encoding(encoding: str, charset: str) -> None:
    body = QUOTE.encode(charset)
    encoded = {"8bit": body, "base64": base64.encodebytes(body), "quoted-printable": quopri.encodestring(body)}[
        encoding
    ]
    raw = (
        f"From: a@b.fr\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode() + encoded
    assert scrub.quoted(raw) == KNOWN
    clean = scrub.without(raw, KNOWN)
    said = mime.parse(clean).decoded(clean).decode(charset)
    assert TEXT.replace("-", "").lower() not in "".join(c for c in said.lower() if c.isalnum())
    assert said.startswith("Merci.") and said.endswith("Fin.\r\n")


def test_quoted_codes_are_gone_from_every_corner() -> None:
    inner = message(f"[{TEXT}] é", TEXT.encode(), (CODE_FIELD, TEXT))
    attached = b"Content-Type: message/rfc822\r\n\r\n" + inner
    named = mime.leaf("text/csv", f"a;{TEXT}\r\n".encode(), filename=f"[{TEXT}].csv")
    html = mime.leaf("text/html", f"<p>Objet&nbsp;: [{TEXT}] Avis</p>".encode(), disposition=None)
    raw = mime.message(
        [
            ("From", "a@b.fr"),
            ("Subject", f"TR: é {TEXT}"),
            ("Thread-Topic", f"[{TEXT}] é"),
            ("In-Reply-To", f"<{TEXT}@b.fr>"),
            ("Comments", "x" * 60 + f" {TEXT}"),
        ],
        mime.multipart("mixed", [html, attached, named]),
    ).replace(b"\r\n\r\n--", f"\r\n\r\npreamble {TEXT}\r\n--".encode(), 1)
    clean = scrub.without(scrub.take(raw)[0], scrub.quoted(raw))
    assert not leaks(clean)
    tree = mime.parse(clean)
    assert [part.media_type for part in tree.walk()][1:] == ["text/html", "message/rfc822", "text/plain", "text/csv"]
    assert tree.get("Thread-Topic") == "é"


def test_what_is_not_a_known_code_is_left_alone() -> None:
    other = codes.new_code().text
    raw = message("Avis", f"Lot {other}, série ABCDEFGHJKMNPQRSTVWX1234\r\n".encode())
    assert scrub.without(raw, KNOWN) == raw
    assert scrub.quoted(message("Avis", b"Rien de tel ici, 12-34, jamais.\r\n")) == {}


def test_a_code_hidden_in_a_code_is_gone_too() -> None:
    half = TEXT[:10] + TEXT + TEXT[10:]
    assert not leaks(scrub.without(message("Avis", half.encode()), KNOWN))


@given(st.binary(max_size=2000))
def test_any_bytes_are_answered_and_without_codes_unchanged(raw: bytes) -> None:
    clean, given_ = scrub.take(raw)
    assert scrub.without(clean, scrub.quoted(clean)) == clean or scrub.quoted(clean)
    assert given_.codes or given_.accepts_clear or clean == raw
