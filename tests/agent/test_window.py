"""The small window, shown on a virtual screen and answered as a person does, by keyboard."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from caducee.agent import display
from caducee.agent.display import Question, Reply, Window, printable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not importlib.util.find_spec("tkinter") or not shutil.which("Xvfb") or not shutil.which("xdotool"),
        reason="tkinter, Xvfb or xdotool is not installed",
    ),
]
LINES = ("De / from : alice@chu.fr", "Objet / subject : Compte\x1b[31m rendu\u202e")


@pytest.fixture(scope="module")
def screen() -> Iterator[None]:
    """A screen of our own, without network."""
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        number = server.stdout.readline().strip()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISPLAY", f":{number}")
            yield
        server.terminate()


def xdotool(*arguments: str) -> str:
    done = subprocess.run(["xdotool", *arguments], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip()


def answered(question: Question, *keys: tuple[str, ...]) -> Reply:
    """What the window answers to a person who does this on the keyboard."""
    found: list[Reply] = []
    asking = threading.Thread(target=lambda: found.append(Window().ask(question)))
    asking.start()
    deadline = time.monotonic() + 15
    while not (window := xdotool("search", "--onlyvisible", "--name", "signature")):
        assert asking.is_alive() and time.monotonic() < deadline, "no window"
    window = window.splitlines()[-1]
    xdotool("windowfocus", "--sync", window)
    for key in keys:
        xdotool(*key)
    asking.join(20)
    assert not asking.is_alive()
    return found[0]


def question(*, pin: bool = True, left: int = 3) -> Question:
    return Question("Alice EXEMPLE", LINES, left, pin=pin)


Keys = tuple[tuple[str, ...], ...]


@pytest.mark.parametrize(
    ("pin", "keys", "expected"),
    [
        (True, (("type", "2468"), ("key", "Return")), Reply(True, b"2468")),
        (True, (("key", "Return"),), Reply(False)),  # no PIN is no
        (True, (("type", "2468"), ("key", "Escape")), Reply(False)),
        (False, (("key", "Return"),), Reply(True)),
        (False, (("key", "Escape"),), Reply(False)),
    ],
    ids=["pin", "empty pin", "escape", "consent", "no consent"],
)
def test_the_keyboard_answers(screen: None, pin: bool, keys: Keys, expected: Reply) -> None:
    assert answered(question(pin=pin), *keys) == expected


def test_a_window_closed_or_left_alone_is_no(screen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "ASK_SECONDS", 1.5)
    begin = time.monotonic()
    assert Window().ask(question()) == Reply(False)
    assert time.monotonic() - begin < 10


def test_without_a_screen_it_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":12345")
    assert Window().ask(question()) == Reply(False)
    monkeypatch.setattr(sys, "executable", os.devnull)
    assert Window().ask(question()) == Reply(False)


def test_what_others_wrote_gives_no_commands() -> None:
    lines = display._shown(question(left=1))
    assert any("dernier essai" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert (
        printable("a\x1b[2J\r\nb") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"
    )
