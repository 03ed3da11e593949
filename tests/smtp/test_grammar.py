"""Command arguments as the RFCs have them: paths, parameters, and commands that take none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp import grammar
from smtp.machine import AskRecipient, AskSender, Machine, Profile
from smtp.replies import SmtpRefusal
from smtp.services import Limits

OURS = "a.mssante.fr"


def _machine(*lines: str) -> Machine:
    """A machine under TLS that has taken these lines."""
    machine = Machine(Profile("h", domain=OURS), Limits(), secure=True)
    for line in lines:
        step = machine.command(line.encode())
        if isinstance(step, AskSender):
            machine.sender_taken(step)
    return machine


def _refused(line: str, *before: str) -> str:
    with pytest.raises(SmtpRefusal) as refusal:
        _machine(*before).command(line.encode())
    return str(refusal.value.reply)[:9]


BEGUN = ("EHLO x", "MAIL FROM:<c@b.mssante.fr>")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("<@x.test,@y.test:bob@a.mssante.fr>", "bob@a.mssante.fr"),  # RFC 5321 appendix F.2
        ('<"bob"@a.mssante.fr>', "bob@a.mssante.fr"),
        (r'<"b\ob"@a.mssante.fr>', "bob@a.mssante.fr"),
        ('<"jean dupont"@a.mssante.fr>', '"jean dupont"@a.mssante.fr'),
        (r'<"a>\"@\\b"@a.mssante.fr>', r'"a>\"@\\b"@a.mssante.fr'),
        ("<bob@[127.0.0.1]>", "bob@[127.0.0.1]"),
        ("<bob@[IPv6:::1]>", "bob@[ipv6:::1]"),
        ("<Postmaster>", "postmaster@a.mssante.fr"),
        ("<" + "x" * 64 + "@a.mssante.fr>", "x" * 64 + "@a.mssante.fr"),
    ],
)
def test_recipients_in_every_form(path: str, address: str) -> None:
    step = _machine(*BEGUN).command(f"RCPT TO:{path}".encode())
    assert isinstance(step, AskRecipient)
    assert step.recipient == address
    assert grammar.address(address) == address


@pytest.mark.parametrize(
    "path",
    [
        "<>",
        "<bob>",
        "<@:bob@a.fr>",
        '<"bob@a.fr>',
        '<""@a.fr>',
        "<b@[1.2.3]>",
        "<b@[IPv6:1.2.3.4]>",
        "<@x.test:>",
        "<a b@c.fr>",
        "<" + "x" * 65 + "@a.fr>",
        "<b@a..fr>",
        "<b@-a.fr>",
        "<b@" + "d" * 64 + ".fr>",
    ],
)
def test_what_is_no_path(path: str) -> None:
    assert _refused(f"RCPT TO:{path}", *BEGUN) in ("501 5.5.4", "553 5.1.3")


@given(st.text(st.sampled_from('<>"\\@.a [],:%é\x7f'), max_size=24))
def test_no_address_opens_a_bracket(text: str) -> None:
    """Whatever is accepted can be written between < and > again, and read as the same."""
    try:
        path, _ = grammar.path_argument("TO:", f"TO:<{text}>")
        address = grammar.address(path)
    except grammar.GrammarError:
        return
    assert grammar.path_argument("TO:", f"TO:<{address}>") == (address, {})


@pytest.mark.parametrize("line", ["RSET x", "QUIT x", "VRFY", "EHLO a b", "EHLO", "HELO"])
def test_arguments_where_none_or_one_belongs(line: str) -> None:
    assert _refused(line, "EHLO x").startswith("501 5.5.4")


@pytest.mark.parametrize(
    "parameter",
    ["RET=NONE", "ENVID=a+0D+0AX:y", "ENVID=+00", "ENVID=+E9", "AUTH=<>", "ENVID=é SMTPUTF8", "SIZE=١ SMTPUTF8"],
)
def test_mail_parameters_that_are_refused(parameter: str) -> None:
    assert _refused(f"MAIL FROM:<c@b.mssante.fr> {parameter}", "EHLO x")[:3] in ("501", "555")


@pytest.mark.parametrize("value", ["rfc822;a+0D+0Ab", "rfc822;a+00", "rfc822;é", "é;a", ";a", "rfc822;", "utf-8;"])
def test_original_recipients_that_are_refused(value: str) -> None:
    before = ("EHLO x", "MAIL FROM:<c@b.mssante.fr> SMTPUTF8")
    assert _refused(f"RCPT TO:<bob@a.mssante.fr> ORCPT={value}", *before) == "501 5.5.4"


def test_an_original_recipient_beyond_ascii_is_kept_in_ascii() -> None:
    """RFC 6533 §3."""
    machine = _machine("EHLO x", "MAIL FROM:<c@b.mssante.fr> SMTPUTF8")
    step = machine.command("RCPT TO:<bob@a.mssante.fr> ORCPT=utf-8;hélène@x".encode())
    assert isinstance(step, AskRecipient)
    assert step.options.original == r"utf-8;h\x{E9}l\x{E8}ne@x"


@pytest.mark.parametrize("line", ["MAIL FROM:<hélène@b.mssante.fr>", "RCPT TO:<hélène@a.mssante.fr>"])
def test_letters_beyond_ascii_need_smtputf8(line: str) -> None:
    assert _refused(line, *(BEGUN if line.startswith("RCPT") else BEGUN[:1])) == "553 5.6.7"
