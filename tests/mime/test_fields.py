"""Header fields: exact removal, words and parameters both ways, addresses no display name can forge."""

from __future__ import annotations

import email
import email.header
import email.policy
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mime

MESSAGE = b"A: 1\r\nX-Drop: one\r\n two\r\nB: 2\nx-drop : three\nC: 3\r\n\r\nX-Drop: body\r\n"


def test_removal_is_exact() -> None:
    assert mime.without_fields(MESSAGE, ["X-DROP"]) == b"A: 1\r\nB: 2\nC: 3\r\n\r\nX-Drop: body\r\n"
    assert mime.without_fields(MESSAGE, ["Absent"]) is MESSAGE


def test_removal_goes_past_junk_lines_and_padding() -> None:
    """A forged result field must not survive behind a line that is no field, or behind a very long header."""
    forged = b"Authentication-Results: forged\r\n"
    assert forged not in mime.without_fields(b"A: 1\r\njunk\r\n" + forged + b"\r\n", ["authentication-results"])
    padding = b"X: " + b"a" * 70 + b"\r\n"
    long = padding * 10_000 + forged + b"\r\nbody"
    assert mime.without_fields(long, ["Authentication-Results"]) == padding * 10_000 + b"\r\nbody"


HEADER_LINES = st.sampled_from(
    [b"A: 1\r\n", b"Drop: x\r\n", b"drop:y\n", b"DROP: a\r\n b\r\n", b"junk\r\n", b"B: \xff\n"]
)


@given(st.lists(HEADER_LINES, max_size=12), st.binary(max_size=30))
def test_without_fields_removes_exactly_these_bytes(lines: list[bytes], body: bytes) -> None:
    raw = b"".join(lines) + b"\r\n" + body
    kept = b"".join(line for line in lines if not line.lower().startswith(b"drop")) + b"\r\n" + body
    assert mime.without_fields(raw, ["Drop"]) == kept


@given(st.binary(max_size=200))
def test_fields_tile_the_header(raw: bytes) -> None:
    fields, body = mime.split(raw)
    assert b"".join(raw[field.start : field.end] for field in fields) == raw[: mime.header_end(raw)[0]]
    assert body <= len(raw)


@given(st.binary(max_size=200))
def test_to_crlf_leaves_no_bare_line_end(raw: bytes) -> None:
    clean = mime.to_crlf(raw)
    assert clean.count(b"\r\n") == clean.count(b"\n") == clean.count(b"\r")
    assert mime.to_crlf(clean) == clean


VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="=?"), max_size=120)


@given(VALUES)
def test_a_written_field_reads_back(value: str) -> None:
    field = mime.header_field("Subject", value)
    assert field.isascii() and field.endswith(b"\r\n")
    assert mime.parse(field + b"\r\n").get("subject") == value.strip(" \t")
    if all(len(word) < 60 for word in value.split()):
        assert all(len(line) <= 78 for line in field.split(b"\r\n"))


def test_the_standard_library_reads_our_words() -> None:
    subject = "XDM/1.0/DDM+ Compte rendu d'hospitalisation — été 2026, cœur et œil, référence 0123456789 très longue"
    field = mime.header_field("Subject", subject)
    read = BytesParser(policy=email.policy.default).parsebytes(field + b"\r\n")
    assert read["subject"] == subject


@pytest.mark.parametrize("value", ["a\r\nBcc: x@y", "a\nb", "a\rb", "a\0b", "\x7f", "x" * 1200])
def test_injection_is_refused(value: str) -> None:
    with pytest.raises(ValueError):
        mime.header_field("Subject", value)


def test_bad_names_are_refused() -> None:
    for name in ["", "A B", "A:", "é", "A\r\nB"]:
        with pytest.raises(ValueError):
            mime.header_field(name, "x")


def test_address_fields_encode_display_names_only() -> None:
    field = mime.header_field("From", 'Hélène "Le" Goff <helene@medecin.mssante.fr>, b@c.fr')
    assert b"helene@medecin.mssante.fr" in field
    assert mime.parse(field + b"\r\n").addresses("from") == [
        ("Hélène Le Goff", "helene@medecin.mssante.fr"),
        ("", "b@c.fr"),
    ]
    with pytest.raises(ValueError):
        mime.header_field("To", "é@x.fr")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("A@B.fr", [("", "a@b.fr")]),
        ("<a@b.fr>", [("", "a@b.fr")]),
        ('"Doe, J." <a@b.fr>, c@d.fr', [("Doe, J.", "a@b.fr"), ("", "c@d.fr")]),
        ("a@b.fr (Jean (Paul))", [("Jean Paul", "a@b.fr")]),
        ("Groupe: a@b.fr, X <c@d.fr>;, e@f.fr", [("", "a@b.fr"), ("X", "c@d.fr"), ("", "e@f.fr")]),
        ("undisclosed-recipients:;", []),
        ("<@relay.fr,@other.fr:a@b.fr>", [("", "a@b.fr")]),
        ('"a b"@c.fr', [("", '"a b"@c.fr')]),
        ('"ab"@c.fr', [("", "ab@c.fr")]),
        ("=?utf-8?q?victim=40x.fr=2C?= <evil@y.fr>", [("victim@x.fr,", "evil@y.fr")]),
        ('"victim@x.fr" <evil@y.fr>', [("victim@x.fr", "evil@y.fr")]),
        ("victim@x.fr <evil@y.fr>", [("victim@x.fr", "evil@y.fr")]),
        ("(<victim@x.fr>) evil@y.fr", [("<victim@x.fr>", "evil@y.fr")]),
        ("<a@b.fr> <c@d.fr>", []),
        ("<a@b.fr> c@d.fr", []),
        ("a b@c.fr", []),
        ("a@b@c.fr", []),
        ("a..b@c.fr", []),
        ("@c.fr", []),
        ("a@", []),
        ("<>", []),
        ('"unclosed <a@b.fr>', []),
        ("a @ b.fr", []),
    ],
)
def test_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    assert mime.addresses(value) == expected


@given(st.text(max_size=80))
def test_addresses_never_raise_and_are_well_formed(value: str) -> None:
    for _, address in mime.addresses(value):
        local, _, domain = address.rpartition("@")
        assert local and domain and "\r" not in address and "\n" not in address


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=?utf-8?b?w6k=?= =?utf-8?b?w6g=?=", "éè"),
        ("=?iso-8859-1?Q?a=E9?= b", "aé b"),
        ("=?iso-8859-1*fr?Q?a=E9?=", "aé"),
        ("=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é"),
        ("=?rot13?q?nop?=", "nop"),
        ("=?punycode?q?nop?=", "nop"),
        ("=?nowhere?q?=E9?=", "é"),
        ("a =?broken", "a =?broken"),
    ],
)
def test_encoded_words(value: str, expected: str) -> None:
    assert mime.decode_words(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/b; x=1; X=2", {"x": "1"}),
        ('a/b; x="a;b\\"c"; y=(no) z', {"x": 'a;b"c', "y": "z"}),
        ("a/b; x*=iso-8859-1'fr'%E9", {"x": "é"}),
        ("a/b; x=fallback; x*=utf-8''%C3%A9", {"x": "é"}),
        ("a/b; x*1=b; x*0=a", {"x": "ab"}),
        ("a/b; ; =; x", {}),
    ],
)
def test_parameters(value: str, expected: dict[str, str]) -> None:
    assert mime.split_parameters(value) == ("a/b", expected)


def test_the_file_name_loses_folders_and_controls() -> None:
    raw = mime.leaf("application/pdf", b"x", filename="../../été/compte\r\nrendu.pdf")
    assert mime.parse(raw).filename == "compterendu.pdf"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (r"(\() shown@a.example (\)\) hidden@b.example )", ["shown@a.example"]),
        ('(") shown@a.example (" hidden@b.example)', ["shown@a.example"]),
        (r"shown@a.example (one \) two, hidden@b.example)", ["shown@a.example"]),
    ],
)
def test_a_comment_ends_where_every_mail_program_ends_it(value: str, expected: list[str]) -> None:
    """The sender is checked on what is read here, and shown by what the reader's program reads."""
    assert [address for _, address in mime.addresses(value)] == expected
    message = email.message_from_string(f"From: {value}\n\n", policy=email.policy.default)
    assert [address.addr_spec for address in message["from"].addresses] == expected
