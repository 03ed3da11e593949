"""The redaction rule: what is not known to be harmless is never written, at any level."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from caducee.logs import ALLOWED_KEYS, REDACTED, configure_logs, redact

SECRETS = ("Compte rendu de Paul ESSAI", "185057800608491", "motdepasse", "7KQ4-M2XW9-TB5RC-0HZ8N")


@pytest.fixture(autouse=True)
def _hooks() -> Iterator[None]:
    """`configure_logs` takes the interpreter's last words over; give them back."""
    hooks = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = hooks


def written(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_unknown_keys_are_masked_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    for method in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), method)(
            "accepted", subject=SECRETS[0], body=SECRETS[1], password=SECRETS[2], submission_id="s1"
        )
    text = written(capsys)
    assert not any(secret in text for secret in SECRETS)
    assert [json.loads(line)["submission_id"] for line in text.splitlines()] == ["s1"] * 4


def test_an_ins_is_masked_even_in_an_allowed_key(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    structlog.get_logger().info("refused", reason="185057800608491@patient.mssante.fr inconnu, 2A 185052A00608491")
    assert "185057800608491" not in (text := written(capsys))
    assert "185052A00608491" not in text
    assert REDACTED in text


def test_an_exception_is_logged_by_class_and_place_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    try:
        raise ValueError(SECRETS[0])
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("mail.log").exception("unexpected data: %s", SECRETS[1])
    text = written(capsys)
    assert not any(secret in text for secret in SECRETS)
    assert "ValueError caducee/test_logs.py" in text


def test_an_exception_from_no_file_of_ours_is_logged_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its innermost frame is `<frozen codecs>`: a place without folders."""
    configure_logs()
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError) as caught:
        (tmp_path / "text").read_text("utf-8")
    structlog.get_logger().error("failed", exc_info=(caught.type, caught.value, caught.tb))
    assert "UnicodeDecodeError <frozen codecs>" in written(capsys)


def test_what_nobody_caught_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()

    def fail() -> None:
        raise ValueError(SECRETS[0])

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    text = written(capsys)
    assert text.count("ValueError caducee/test_logs.py") == 2
    assert SECRETS[0] not in text


def test_an_ins_given_as_a_number_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    structlog.get_logger().info("counted", count=int(SECRETS[1]), size=12)
    assert SECRETS[1] not in (text := written(capsys))
    assert json.loads(text)["size"] == 12


def test_library_lines_below_warning_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    logging.getLogger("mail.log").info("DATA: %s", SECRETS[0])
    logging.getLogger("sqlalchemy.engine").debug("INSERT %s", SECRETS[1])
    assert written(capsys) == ""


@given(st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=50)))
def test_only_allowed_keys_keep_their_value(entry: dict[str, str]) -> None:
    result = redact(None, "info", dict(entry))
    assert all(value == REDACTED for key, value in result.items() if key not in ALLOWED_KEYS)
