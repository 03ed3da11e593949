"""The pure parts: parser, formatter, names, sequences, summaries. Any bytes are survived; known answers are exact."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imap import utf7
from imap.envelope import address_list
from imap.errors import BadCommand, Refused
from imap.grammar_append import another_message, append_target
from imap.keys import keys_of
from imap.listing import matches
from imap.parser import GRAMMAR, parse
from imap.sequences import format_numbers, parse_sequence_set
from imap.structure import body_structure
from imap.summary import compute, encode, read, summarise
from imap.values import Command, Fetch
from mime import parse as parse_message
from tests.imap.support import MULTIPART

_WORDS = [name.encode() for name in GRAMMAR] + [
    b"(", b")", b"[", b"]", b"<0.1>", b'"', b"\\", b"{3}\r\n", b"{3+}\r\n", b"1:*", b"*", b"%", b"NOT", b"OR", b"BODY[",
    b"HEADER.FIELDS", b"TEXT", b"\\Seen", b"+FLAGS", b"RETURN (", b"INBOX", b"&AOk-", b"1-Feb-2026", b" ", b"\x00",
]  # fmt: skip


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=300), st.lists(st.binary(max_size=5), max_size=3))
def test_any_bytes_parse_or_are_refused(line: bytes, literals: list[bytes]) -> None:
    with suppress(BadCommand, Refused):
        assert isinstance(parse(line, literals), Command)


@settings(max_examples=500, deadline=1000)
@given(st.lists(st.sampled_from(_WORDS), max_size=12), st.lists(st.just(b"abc"), max_size=3))
def test_plausible_nonsense_parses_or_is_refused(words: list[bytes], literals: list[bytes]) -> None:
    for glue in (b" ", b""):
        with suppress(BadCommand, Refused):
            assert isinstance(parse(b"a " + glue.join(words), literals), Command)


@pytest.mark.parametrize("text", [b"(", b"NOT ", b"OR ALL ", b'"', b"1,", b"{0}\r\n", b"\\", b"HEADER "])
def test_a_full_line_of_one_thing_takes_no_time(text: bytes) -> None:
    began = time.monotonic()
    for start in (b"a SEARCH ", b"a FETCH 1 ", b"a STORE 1 ", b"a LIST ", b"a FETCH ", b"a LOGIN "):
        with pytest.raises((BadCommand, Refused)):
            parse(start + text * (65_000 // len(text)))
    assert time.monotonic() - began < 5


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=400))
def test_any_bytes_have_a_summary(raw: bytes) -> None:
    summary = read(summarise(raw))
    assert summary == compute(raw)
    assert summary is not None and summary.size == len(raw)
    assert all(0 <= p.start <= p.body_start <= p.end <= len(raw) for p in summary.places().values())
    assert (1,) in summary.places()
    for value in (summary.envelope, summary.body, summary.structure):
        assert _balanced(value)


def _balanced(value: bytes) -> bool:
    """Reads the value as IMAP data: quotes and literals closed, parentheses balanced, nothing outside them."""
    depth = position = 0
    while position < len(value):
        sign = value[position : position + 1]
        if sign == b'"':
            position += 1
            while value[position : position + 1] != b'"':
                assert value[position] not in b"\r\n\x00" and position < len(value)
                position += 2 if value[position : position + 1] == b"\\" else 1
        elif sign == b"{":
            end = value.index(b"}\r\n", position)
            position = end + 2 + int(value[position + 1 : end])
        elif sign in b"()":
            depth += 1 if sign == b"(" else -1
            if depth == 0:
                return position == len(value) - 1
        else:
            assert value[position] not in b"\r\n"
        position += 1
    return False


@given(st.binary(max_size=60))
def test_damaged_summaries_are_no_summary(raw: bytes) -> None:
    assert read(raw) is None or encode(read(raw) or compute(b"")) == raw


def test_summary_of_a_nested_message() -> None:
    summary = compute(MULTIPART)
    places = summary.places()
    assert list(places) == [(1,), (2,), (2, 1), (2, 2), (3,)]
    place = places[(3,)]
    assert MULTIPART[place.body_start : place.end] == b"JVBERg=="
    assert (
        b'("APPLICATION" "PDF" ("name" "cr.pdf") NIL NIL "BASE64" 8 NIL ("attachment" ("filename" "cr.pdf")) NIL NIL)'
        in (summary.structure)
    )
    assert summary.body.startswith(
        b'(("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 10 0)("MESSAGE" "RFC822" NIL NIL NIL "7BIT" '
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a@b.fr", b'((NIL NIL "a" "b.fr"))'),
        (b'"Petit, R." <r@b.fr>, x@y', b'(("Petit, R." NIL "r" "b.fr")(NIL NIL "x" "y"))'),
        (b"x@y (Nom)", b'(("Nom" NIL "x" "y"))'),
        (b"undisclosed-recipients:;", b'((NIL NIL "undisclosed-recipients" NIL)(NIL NIL NIL NIL))'),
        (
            b"G: a@b, c@d;, e@f",
            b'((NIL NIL "G" NIL)(NIL NIL "a" "b")(NIL NIL "c" "d")(NIL NIL NIL NIL)(NIL NIL "e" "f"))',
        ),
        (b"<@relay:a@b>", b'((NIL "@relay" "a" "b"))'),
        (b'"a b"@c', b'((NIL NIL "a b" "c"))'),
        (b"=?utf-8?q?Ren=C3=A9?= <r@b>", b'(("=?utf-8?q?Ren=C3=A9?=" NIL "r" "b"))'),
        (b"", b"NIL"),
        (b" , ,", b"NIL"),
        (b'"Petit <r@b.fr>, x@y', b'(("\\"Petit" NIL "r" "b.fr")(NIL NIL "x" "y"))'),
    ],
)
def test_address_lists(value: bytes, expected: bytes) -> None:
    assert address_list(value) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('name*0="compte"; name*1=" rendu"; x=1', b'("name" "compte rendu" "x" "1")'),
        ("name*1=du; size=3; name*0=ren", b'("size" "3" "name" "rendu")'),
        ("name*0*=utf-8''r%C3%A9; name*1=\"a b\"", b'("name*" "utf-8\'\'r%C3%A9a%20b")'),
        ("name*0=a; name*2=c", b'("name" "a" "name*2" "c")'),
        ("name*1=b; name*=utf-8''a", b'("name*1" "b" "name*" "utf-8\'\'a")'),
    ],
)
def test_parameters_in_sections_are_put_together(value: str, shown: bytes) -> None:
    raw = f"Content-Type: application/pdf; {value}\r\n\r\n".encode()
    assert body_structure(parse_message(raw), raw)[0] == b'("APPLICATION" "PDF" %b NIL NIL "7BIT" 0)' % shown


@pytest.mark.parametrize(
    ("value", "mailbox", "display"),
    [
        ("Zoe <b@x.fr>, a@x.fr", "b", "zoe"),
        ("=?utf-8?q?Ren=C3=A9?= <r@x.fr>", "r", "rene\u0301"),
        ("r@x.fr (Nom)", "r", "nom"),
        ("r@x.fr", "r", "r@x.fr"),
        ("<root>", "root", "root"),
        ("Equipe: a@x.fr;", "equipe", "equipe"),
        ("", "", ""),
    ],
)
def test_the_first_address_sorts(value: str, mailbox: str, display: str) -> None:
    raw = f"From: {value}\r\n\r\n".encode()
    keys = keys_of(parse_message(raw), raw)
    assert (keys.from_mailbox.casefold(), keys.from_display.casefold()) == (mailbox, display)


@pytest.mark.parametrize("piece", [b'\\"', b'"\\', b'\\",', b"(", b"<", b'("', b"a@b,"])
def test_a_hostile_address_field_takes_no_time(piece: bytes) -> None:
    began = time.monotonic()
    address_list(b'"' + piece * (64 * 1024 // len(piece)))
    assert time.monotonic() - began < 5


def test_a_summary_does_not_weigh_as_much_as_its_message() -> None:
    part = b"--b\r\nContent-Description: " + b"y" * 20_000 + b"\r\n\r\nx\r\n"
    raw = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + part * 300 + b"--b--\r\n"
    summary = read(summarise(raw))
    assert summary is not None and summary.structure.startswith(b'("TEXT" "PLAIN" ')
    assert len(summarise(raw)) < 10_000
    assert list(summary.places()) == [(1,)]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_utf7_round_trip(name: str) -> None:
    assert utf7.decode(utf7.encode(name)) == name


def test_utf7_known_and_refused() -> None:
    # RFC 3501 §5.1.3
    assert utf7.encode("~peter/mail/台北/日本語") == b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"
    for wire in (b"&AGE-", b"&Jjo!", b"&", b"\xc3\xa9", b"&U,BTFw-&ZeVnLIqe-"):
        with pytest.raises(ValueError, match="UTF-7"):
            utf7.decode(wire)


@given(st.sets(st.integers(1, 60)), st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=6))
def test_sequence_sets_find_what_a_plain_test_finds(numbers: set[int], ranges: list[tuple[int, int]]) -> None:
    ordered = sorted(numbers)
    text = ",".join(f"{low}:{high}" for low, high in ranges).encode()
    expected = [i for i, n in enumerate(ordered) if any(min(r) <= n <= max(r) for r in ranges)]
    assert parse_sequence_set(text).indices(ordered) == expected
    if ordered:
        assert parse_sequence_set(format_numbers(ordered).encode()).indices(ordered) == list(range(len(ordered)))


def test_the_highest_uid_is_always_in_star() -> None:
    assert parse_sequence_set(b"500:*").indices([3, 9]) == [1]
    assert parse_sequence_set(b"1:4294967295").indices([3, 9]) == [0, 1]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "a/b", True),
        ("%", "a/b", False),
        ("%/%", "a/b", True),
        ("a*", "a/b", True),
        ("a%b", "a/b", False),
        ("inbox", "INBOX", True),
        ("*b*", "a/b", True),
        ("", "a", False),
        ("*a" * 100 + "b", "a" * 200, False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@given(st.text("ab/*%", max_size=8), st.text("ab/", max_size=8))
def test_patterns_match_as_a_plain_test_does(pattern: str, name: str) -> None:
    signs = {"*": ".*", "%": "[^/]*"}
    expected = re.fullmatch("".join(signs.get(sign, sign) for sign in pattern), name) is not None
    assert matches(pattern, name) is expected


def test_inbox_in_a_pattern_has_no_case_below_it_either() -> None:
    assert matches("inbox/%", "INBOX/x") and matches("Inbox*", "INBOX/x")
    assert not matches("inbox%", "INBOX2") and not matches("inbox2", "INBOX2")


def test_hostile_patterns_cost_little() -> None:
    began = time.monotonic()
    for pattern in ("*a" * 255 + "b", "%a" * 255 + "b", "*" * 1000 + "b", "%" * 1000 + "b"):
        for _ in range(100):
            assert not matches(pattern, "a" * 255)
    assert time.monotonic() - began < 0.5


def test_fetch_items() -> None:
    command = parse(b"a1 uid fetch 1:*,7 (FLAGS BODY.PEEK[1.2.HEADER.FIELDS.NOT (To {2}\r\n)]<10.20>)", [b"Cc"])
    assert command.uid and isinstance(command.arguments, Fetch)
    (content,) = command.arguments.contents
    assert content.label == b"BODY[1.2.HEADER.FIELDS.NOT (To Cc)]<10>"
    assert content.path == (1, 2) and content.partial == (10, 20) and content.peek


def test_passwords_are_not_shown() -> None:
    assert "hunter2" not in repr(parse(b"a LOGIN me hunter2")) + repr(parse(b"a AUTHENTICATE PLAIN hunter2"))


@pytest.mark.parametrize(
    ("text", "first", "again"),
    [
        (b"", False, False),
        (b" ", False, True),
        (b" (\\Seen) ", False, True),
        (b' (\\Seen) "17-Jul-1996 02:44:25 -0700" ', False, True),
        (b" UTF8 (", False, True),
        (b") ", False, True),
        (b") (\\Seen) UTF8 (", False, True),
        (b" (\\Seen", False, False),
        (b" x ", False, False),
        (b"t APPEND INBOX ", True, False),
        (b"t APPEND INBOX (\\Seen) UTF8 (", True, False),
        (b"t APPEND ", False, False),
        (b"t UID REPLACE 3 INBOX ", True, False),
        (b"t SELECT INBOX ", False, False),
    ],
)
def test_where_a_message_is_about_to_come(text: bytes, first: bool, again: bool) -> None:
    assert (append_target(text, (), utf8=True) == "INBOX") is first
    assert another_message(text, utf8=True) is again
