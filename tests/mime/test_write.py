"""Entities written here read back with the same octets, and survive 7-bit transport."""

from __future__ import annotations

import email

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mime
from mime.write import quoted_printable

TYPES = st.sampled_from(["text/xml", "text/csv", "application/pdf", "application/zip"])


@given(TYPES, st.binary(max_size=300), st.none() | st.text(max_size=60))
def test_a_leaf_decodes_to_its_content(media_type: str, content: bytes, filename: str | None) -> None:
    raw = mime.leaf(media_type, content, filename=filename.encode("utf-8", "ignore").decode() if filename else None)
    part = mime.parse(raw)
    assert part.decoded(raw) == content
    assert email.message_from_bytes(raw).get_payload(decode=True) == content
    check_seven_bit(raw)


@given(st.text(st.sampled_from("aé \t.=-F\r\n\x00"), max_size=200))
def test_quoted_printable_is_exact(text: str) -> None:
    content = text.encode()
    encoded = quoted_printable(content)
    raw = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded
    assert mime.parse(raw).decoded(raw) == content
    assert all(len(line) <= 78 for line in encoded.split(b"\r\n"))


def check_seven_bit(raw: bytes) -> None:
    assert raw.isascii() and raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r")
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))


ENTITIES = st.builds(mime.leaf, TYPES, st.binary(max_size=60)) | st.binary(max_size=60).map(
    lambda b: b"X: y\r\n\r\n" + b
)


@given(st.lists(ENTITIES, min_size=1, max_size=5))
def test_a_multipart_reads_back_octet_for_octet(parts: list[bytes]) -> None:
    raw = mime.multipart("mixed", parts)
    assert [child.raw(raw) for child in mime.parse(raw).children] == parts
    outer = mime.multipart("alternative", [raw, *parts])
    assert mime.parse(outer).children[0].raw(outer) == raw


def test_parameters_and_boundary() -> None:
    raw = mime.multipart("signed", [b"\r\nx"], boundary="b", parameters={"protocol": "application/pkcs7-signature"})
    assert mime.parse(raw).parameters == {"protocol": "application/pkcs7-signature", "boundary": "b"}
    with pytest.raises(ValueError):
        mime.multipart("mixed", [b"\r\n--b\r\n"], boundary="b")
    with pytest.raises(ValueError):
        mime.multipart("mixed", [b"x"], boundary="a\r\nb")
    with pytest.raises(ValueError):
        mime.multipart("mixed", [])


def test_long_names_are_split_into_sections() -> None:
    name = "Compte rendu d'opération très détaillé — " + "é" * 150 + ".pdf"
    raw = mime.leaf("application/pdf", b"x", filename=name)
    assert mime.parse(raw).filename == name
    assert email.message_from_bytes(raw).get_filename() == name
    check_seven_bit(raw)


def test_message_and_prepend() -> None:
    raw = mime.message([("From", "a@b.fr"), ("Subject", "été")], mime.leaf("text/plain", b"x\n"))
    root = mime.parse(mime.prepend_fields(raw, [("Received", "from here")]))
    assert [field.name for field in root.fields][:4] == ["Received", "From", "Subject", "MIME-Version"]


EIGHT_BIT = (
    b"Content-Type: multipart/mixed; boundary=o\r\nContent-Transfer-Encoding: 8bit\r\n\r\npre\r\n--o\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"h\xc3\xa9 ho, bonjour \xc3\xa0 tous les amis d'ici et d'ailleurs\r\n--o\r\n"
    b"Content-Type: multipart/signed; boundary=s\r\n\r\n"
    b"--s\r\n\r\n\xc3\xa9 signed \n--s\r\n\r\nsig\r\n--s--\r\n\r\n--o\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\n\r\xff\r\n--o\r\n"
    b"Content-Type: text/plain\r\n\r\nplain\nlf\r\n--o--\r\n"
)


def test_seven_bit_re_encodes_what_needs_it_and_nothing_else() -> None:
    raw = mime.to_seven_bit(EIGHT_BIT)
    before, after = mime.parse(EIGHT_BIT), mime.parse(raw)
    text, signed, binary, plain = after.children
    assert text.encoding == "quoted-printable" and text.decoded(raw) == before.children[0].decoded(EIGHT_BIT)
    assert signed.raw(raw) == before.children[1].raw(EIGHT_BIT)
    assert binary.encoding == "base64" and binary.decoded(raw) == b"\x00\n\r\xff"
    assert plain.body(raw) == b"plain\r\nlf"
    assert after.encoding == ""
    assert mime.to_seven_bit(raw) == raw


@given(st.binary(max_size=200))
def test_seven_bit_of_a_leaf_is_canonical(body: bytes) -> None:
    raw = mime.to_seven_bit(b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body)
    check_seven_bit(raw)
    assert mime.parse(raw).decoded(raw) == mime.to_crlf(body)


def test_long_lines_are_encoded() -> None:
    raw = mime.to_seven_bit(b"Content-Type: text/html\r\n\r\n" + b"a" * 5000)
    check_seven_bit(raw)
    assert mime.parse(raw).decoded(raw) == b"a" * 5000
