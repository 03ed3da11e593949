"""Commands and answers of a card (ISO/IEC 7816-4), under T=0 as well as T=1.

Invariants: a command with data never carries Le under T=0; `61xx` and `6Cxx` are followed, a bounded number of times, so
that a card which never ends is an error and not a hang; status words become typed errors; nothing sent is ever logged.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from smime.cps_errors import CardError, MalformedCard, PinBlocked, PinRequired, UnsuitableCard, WrongPin

MAX_ANSWER = 64 * 1024
_MOST_ROUNDS = 300
OK = 0x9000


class Link(Protocol):
    """A connection with one card, by PC/SC or otherwise."""

    @property
    def atr(self) -> bytes: ...

    @property
    def protocol(self) -> int:
        """0 for T=0, 1 for T=1."""
        ...

    def transmit(self, command: bytes) -> bytes:
        """The answer to one command APDU, status word included. Raises CardRemoved, ReaderFailed."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody else speaks to the card inside. Raises CardRemoved, ReaderFailed."""
        ...


class StatusError(CardError):
    """A status word without a meaning of its own here. `status` is the word."""

    code = "card-status"

    def __init__(self, status: int) -> None:
        super().__init__(f"the card answered {status:04X}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What a card answered: data and status word (0x9000)."""

    data: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Channel:
    """Commands on one logical channel: `cla` is the class octet (00 for the basic channel, 01 for the first one)."""

    link: Link
    cla: int = 0

    def send(self, ins: int, p1: int, p2: int, data: bytes = b"", *, le: int | None = None, more: int = 0) -> Answer:
        """Send a command and gather its whole answer. `le`: octets wanted, 256 for all, None for none; `more`: bits added
        to the class octet (10, command chaining). Raises MalformedCard, and what the link raises."""
        if len(data) > 255:
            raise ValueError("a short APDU holds 255 octets")
        head = bytes((self.cla | more, ins, p1, p2))
        body = bytes((len(data),)) + data if data else b""
        if not data and le is None and self.link.protocol == 0:
            body = b"\0"
        tail = bytes((le & 0xFF,)) if le is not None and not (data and self.link.protocol == 0) else b""
        answer = self._once(head + body + tail)
        if answer.status >> 8 == 0x6C and not data:
            answer = self._once(head + bytes((answer.status & 0xFF,)))
        return self._gathered(answer)

    def _gathered(self, answer: Answer) -> Answer:
        parts = [answer.data]
        total = len(answer.data)
        for _ in range(_MOST_ROUNDS):
            if answer.status >> 8 != 0x61:
                return Answer(b"".join(parts), answer.status)
            wanted = answer.status & 0xFF
            answer = self._once(bytes((self.cla, 0xC0, 0, 0, wanted)))
            if answer.status >> 8 == 0x6C:
                answer = self._once(bytes((self.cla, 0xC0, 0, 0, answer.status & 0xFF)))
            if answer.status >> 8 == 0x61 and not answer.data:
                raise MalformedCard("the card announces data and gives none")
            parts.append(answer.data)
            total += len(answer.data)
            if total > MAX_ANSWER:
                raise MalformedCard("the card's answer does not end")
        raise MalformedCard("the card's answer does not end")

    def _once(self, command: bytes) -> Answer:
        answer = self.link.transmit(command)
        if len(answer) < 2 or len(answer) > 258:
            raise MalformedCard("an answer of an impossible length")
        return Answer(answer[:-2], int.from_bytes(answer[-2:], "big"))

    def need(self, ins: int, p1: int, p2: int, data: bytes = b"", *, le: int | None = None, more: int = 0) -> bytes:
        """As `send`, for commands that must succeed: the data. Raises what `raise_for` says."""
        answer = self.send(ins, p1, p2, data, le=le, more=more)
        raise_for(answer.status)
        return answer.data


def raise_for(status: int) -> None:
    """Raise what a status word means: WrongPin (63Cx), PinBlocked (6983), PinRequired (6982), UnsuitableCard (file or
    key not found), StatusError. Nothing for 9000."""
    if status == OK:
        return
    if status & 0xFFF0 == 0x63C0:
        left = status & 0x0F
        raise WrongPin(left) if left else PinBlocked("the PIN is blocked")
    if status == 0x6983:
        raise PinBlocked("the PIN is blocked")
    if status == 0x6982:
        raise PinRequired("the card wants its PIN")
    if status in (0x6A82, 0x6A83, 0x6A88):
        raise UnsuitableCard("the card does not hold what was asked for")
    raise StatusError(status)
