"""The reply family: classes agree, lines are short ASCII, unknown errors show nothing."""

from __future__ import annotations

import logging

import pytest

from directory import DirectoryUnavailable
from mailstore import StoreError, StoreUnavailable
from smtp import replies
from smtp.replies import Reply
from trustspace import TrustSpaceError


def test_every_reply_agrees_with_itself() -> None:
    assert len(replies.ALL) > 40
    for reply in replies.ALL:
        assert not reply.enhanced or reply.enhanced[0] == str(reply.code)[0], reply
        assert reply.enhanced or reply.code // 100 == 3
        for line in reply.encode().split(b"\r\n"):
            assert len(line) <= 510
            line.decode("ascii")
        if reply.code >= 400:
            assert reply.text_fr and reply.text_en, reply


def test_disagreeing_classes_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="differ"):
        Reply(550, "4.1.1", "a", "b")


def test_french_then_english_without_accents() -> None:
    reply = Reply(550, "5.1.2", "hors de l’espace – où ça ? « là » œuvre", "outside")
    assert str(reply) == '550 5.1.2 hors de l\'espace - ou ca ? " la " oeuvre / outside'


def test_a_long_or_hostile_text_stays_within_lines() -> None:
    reply = Reply(550, "5.7.1", "mot " * 300 + "\r\n250 injected", "x" * 900)
    lines = reply.lines()
    assert all(len(line) <= 510 and line.startswith("550") for line in lines)
    assert [line[3] for line in lines] == ["-"] * (len(lines) - 1) + [" "]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailable("x"), "451 4.3.0"),
        (StoreError("x"), "451 4.3.0"),
        (DirectoryUnavailable("x"), "451 4.4.3"),
        (TrustSpaceError("x"), "451 4.7.5"),
        (KeyError("secret"), "451 4.3.0"),
    ],
)
def test_errors_map_to_deferrals(error: Exception, code: str) -> None:
    assert str(replies.reply_for(error)).startswith(code)


def test_unknown_errors_keep_their_text_to_themselves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        try:
            raise KeyError("secret content")
        except KeyError as error:
            reply = replies.reply_for(error)
    assert "secret" not in str(reply) + caplog.text
    reference = str(reply).split("reference ")[1].split(",")[0]
    assert reference in caplog.text
