"""Asking the card's holder: what is to be signed, with which card, and the PIN; on the terminal or in a small window.

Invariants: what is shown cannot give commands to the terminal (other people wrote the subject); the answer is waited for
a bounded time, and no answer is no; a PIN is never echoed, and never an argument of a program.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Protocol

ASK_SECONDS = 120.0
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `lines` describe the message; `left` is the PIN counter; `pin` says whether the PIN is wanted."""

    holder: str
    lines: tuple[str, ...]
    left: int
    pin: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """The holder's answer; `pin` is empty when it was not asked for."""

    agreed: bool
    pin: bytes = field(default=b"", repr=False)


class Display(Protocol):
    """Where questions are asked. One at a time; may block up to ASK_SECONDS."""

    def ask(self, question: Question) -> Reply: ...


class Terminal:
    """The terminal the agent was started from."""

    def ask(self, question: Question) -> Reply:
        """Show and read; the PIN without echo. Ctrl-C, Ctrl-D or an empty PIN is no."""
        sys.stderr.write("\n" + "\n".join(_shown(question)) + "\n")
        sys.stderr.flush()
        try:
            if question.pin:
                text = getpass.getpass("Code PIN (Entrée pour refuser) / PIN (Enter to refuse): ")
                return Reply(bool(text), text.encode("ascii", "replace"))
            answer = input("Signer ? / sign? [o/N] ")
        except (EOFError, KeyboardInterrupt):
            return Reply(False)
        return Reply(answer.strip().lower() in {"o", "oui", "y", "yes"})


class Window:
    """A small window, in a program of its own: whatever happens to it, the agent goes on."""

    def ask(self, question: Question) -> Reply:
        """Open the window and wait. Closing it, or no desktop, is no."""
        content = json.dumps({**asdict(question), "shown": _shown(question)})
        try:
            done = subprocess.run(
                [sys.executable, "-m", "caducee.agent.window"],
                input=content.encode(),
                capture_output=True,
                timeout=ASK_SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout or b"{}")
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return Reply(False)
        return Reply(answer.get("agreed") is True, str(answer.get("pin", "")).encode("ascii", "replace"))


def display_for(wanted: str) -> Display:
    """`terminal`, `window`, or `auto`: the terminal when there is one."""
    if wanted == "terminal" or (wanted == "auto" and sys.stdin is not None and sys.stdin.isatty()):
        return Terminal()
    return Window()


def _shown(question: Question) -> list[str]:
    tries = f"{question.left} essai(s) avant blocage / tries left: {question.left}"
    lines = [f"À signer avec la carte de / to sign with the card of {question.holder} — {tries}"]
    if question.left == 1:
        lines.append("ATTENTION : dernier essai, un code faux bloque la carte / last try, a wrong PIN blocks the card")
    return [printable(line) for line in (*lines, *(f"  {line}" for line in question.lines))]


def printable(text: str) -> str:
    """`text` on one line, without what a terminal or a window would obey (controls, direction marks)."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:_LONGEST]
