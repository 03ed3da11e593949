"""The MIME tree: exact places, bounds, and no exception whatever comes in."""

from __future__ import annotations

import email
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mime

NESTED = (
    b"From: a@b.fr\r\nSubject: =?utf-8?q?Compte_rendu_=C3=A9?=\r\n =?utf-8?q?t=C3=A9?=\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="out"\r\n\r\npreamble\r\n--out\r\n'
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nbonjour =C3=A9\r\n"
    b"--out \t\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n"
    b"Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\none\r\n--in--\r\nepilogue\r\n"
    b"--out\r\nContent-Type: application/zip; name*0*=utf-8''r%C3%A9; name*1*=sultat.zip\r\n"
    b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n filename="../x/IHE_XDM.zip"\r\n\r\n'
    b"UEsD\r\nBA==\r\n--out--\r\nthe end"
)


def test_offsets_types_and_contents() -> None:
    root = mime.parse(NESTED)
    text, attached, archive = root.children
    assert root.get("subject") == "Compte rendu été"
    assert [part.media_type for part in root.walk()] == [
        "multipart/mixed",
        "text/plain",
        "message/rfc822",
        "multipart/alternative",
        "text/plain",
        "application/zip",
    ]
    assert text.decoded(NESTED) == "bonjour é".encode()
    assert text.raw(NESTED) == text.header(NESTED) + text.body(NESTED)
    assert attached.children[0].get("Subject") == "inner"
    assert attached.children[0].children[0].raw(NESTED) == b"\r\none"
    assert archive.decoded(NESTED) == b"PK\x03\x04"
    assert archive.filename == "IHE_XDM.zip" and archive.disposition == "attachment"
    assert archive.parameters["name"] == "résultat.zip"
    assert not any(part.defects for part in root.walk())


def test_bare_lf_gives_the_same_tree() -> None:
    raw = NESTED.replace(b"\r\n", b"\n")
    assert [p.media_type for p in mime.parse(raw).walk()] == [p.media_type for p in mime.parse(NESTED).walk()]
    assert mime.parse(raw).children[0].raw(raw) == mime.parse(NESTED).children[0].raw(NESTED).replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("raw", "defect"),
    [
        (b"Content-Type: multipart/mixed\r\n\r\nx", "no-boundary"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n\r\nx", "no-delimiter"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nx", "no-close-delimiter"),
        (b"Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n", "several-content-types"),
        (b"Content-Type: nonsense\r\n\r\n", "malformed-content-type"),
        (b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nAA==", "encoded-message"),
        (b"Subject: a\r\nno colon here\r\nTo: b\r\n\r\n", "malformed-header-line"),
        (b"X: " + b"a\r\n " * 100_000 + b"\r\nSubject: x\r\n\r\n", "header-too-long"),
        (b"X:\r\n" * 30_000 + b"\r\n", "too-many-fields"),
    ],
)
def test_defects_are_named(raw: bytes, defect: str) -> None:
    assert defect in mime.parse(raw).defects


def test_digest_parts_are_messages() -> None:
    raw = b"Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: one\r\n\r\nhello\r\n--d--\r\n"
    assert mime.parse(raw).children[0].children[0].get("subject") == "one"


def test_depth_and_parts_are_bounded() -> None:
    deep = b"x"
    for index in range(100):
        deep = mime.multipart("mixed", [b"\r\n" + deep if index == 0 else deep], boundary=f"b{index}")
    tree = list(mime.parse(deep).walk())
    assert len(tree) == 33 and "too-deep" in tree[-1].defects
    wide = mime.multipart("mixed", [b"\r\nx"] * 1200)
    root = mime.parse(wide)
    assert root.children == () and "too-many-parts" in root.defects
    assert len(mime.parse(wide, max_parts=1201).children) == 1200
    bushy = mime.multipart("mixed", [mime.multipart("mixed", [b"\r\nx"] * 40)] * 40)
    assert sum(1 for _ in mime.parse(bushy).walk()) <= 1000


def test_messages_in_messages_are_bounded() -> None:
    raw = b"Content-Type: message/rfc822\r\n\r\n" * 5000
    assert "too-deep" in list(mime.parse(raw).walk())[-1].defects


HOSTILE = {
    "dashes": b"Content-Type: multipart/mixed; boundary=-\r\n\r\n" + b"-" * 3_000_000,
    "delimiters": b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"\n--a" * 500_000,
    "blanks": b"Content-Type: multipart/mixed; boundary=a\r\n\r\n\n--a" + b" " * 3_000_000 + b"x",
    "token": b"Content-Type: text/plain; " + b"a" * 250_000 + b"\r\n\r\n",
    "semicolons": b"Content-Type: text/plain" + b";" * 250_000 + b"a b\r\n\r\n",
    "quotes": b"From: " + b'"\\' * 120_000 + b"\r\n\r\n",
    "comments": b"From: " + b"(" * 250_000 + b"\r\n\r\n",
    "words": b"Subject: " + b"=?a?q?" * 40_000 + b"\r\n\r\n",
    "fields": b"a:\n" * 2_000_000,
    "folds": b"a:" + b"\r\n " * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_cost_little(name: str) -> None:
    started = time.process_time()
    root = mime.parse(HOSTILE[name])
    assert root.filename is None
    root.addresses("from")
    root.get_all("subject")
    mime.without_fields(HOSTILE[name], ["subject"])
    assert time.process_time() - started < 3


@given(st.binary(max_size=400))
def test_any_bytes_parse(raw: bytes) -> None:
    check_tree(raw)


PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"--a",
    b"--",
    b"a",
    b":",
    b";",
    b" ",
    b"=?utf-8?q?",
    b"?=",
    b'"',
    b"boundary=",
    b"\xe9",
]
PIECES += [
    b"Content-Type: multipart/mixed; boundary=a\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Subject",
    b"(",
    b"\\",
]
PIECES += [b"Content-Transfer-Encoding: base64\r\n", b"filename*0*=x'y'%", b"From: <a@b>,", b"\0", b"*", b"="]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_mime_like_soup_parses(pieces: list[bytes]) -> None:
    check_tree(b"".join(pieces))


def check_tree(raw: bytes) -> None:
    root = mime.parse(raw)
    assert root.raw(raw) == raw
    assert mime.split(raw)[1] == root.body_start
    for part in root.walk():
        assert part.header(raw) + part.body(raw) == part.raw(raw)
        assert isinstance(part.decoded(raw), bytes)
        assert part.filename is None or part.filename
        position = part.body_start
        for child in part.children:
            assert position <= child.start <= child.body_start <= child.end <= part.end
            position = child.end
        for field in part.fields:
            assert isinstance(part.get(field.name or "x"), str | None)
            part.addresses(field.name)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40))
def test_decoding_agrees_with_the_standard_library(text: str) -> None:
    """A second reader: Python's email package reads the same bodies out of what we write."""
    raw = b"MIME-Version: 1.0\r\n" + mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"})
    assert email.message_from_bytes(raw).get_payload(decode=True) == text.encode()
    assert mime.parse(raw).decoded(raw) == text.encode()
