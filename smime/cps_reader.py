"""Readers and cards by PC/SC (pyscard), on Linux, macOS and Windows.

Invariants: every call has a time limit, because a reader that hangs must not hang the program (its thread is left behind
and its link never used again); a session that showed a PIN resets the card when it ends, so that no other program finds
it unlocked; a card that was removed or reset by somebody else is CardRemoved, never silently opened again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from smime.cps import CpsCard, model_of
from smime.cps_errors import (
    CardError,
    CardRemoved,
    NoCard,
    NoReader,
    ReaderFailed,
    SeveralCards,
    UnsuitableCard,
)

CALL_SECONDS = 10.0
_RECONNECTIONS = 50
_T = TypeVar("_T")

try:
    from smartcard import scard
except ImportError:  # the library or its system part is not installed: said when a card is asked for
    scard = None


@dataclass(frozen=True, slots=True)
class ReaderState:
    """A reader as PC/SC lists it, with the answer to reset of the card in it (empty without one)."""

    name: str
    atr: bytes


def readers(*, seconds: float = CALL_SECONDS) -> list[ReaderState]:
    """Every reader and what is in it. Raises NoReader without a smart card service or reader, ReaderFailed."""
    worker = _Worker(seconds)
    try:
        return worker.run(_list_readers)
    finally:
        worker.stop()


def wait_for_change(known: list[ReaderState], *, seconds: float) -> bool:
    """Wait until a reader's card comes or goes; False when nothing did. Raises as `readers`."""
    worker = _Worker(seconds + CALL_SECONDS)
    try:
        return worker.run(lambda: _wait(known, seconds))
    finally:
        worker.stop()


def find_reader(wanted: str = "", *, seconds: float = CALL_SECONDS) -> str:
    """The name of the reader that holds a CPS card: the one whose name contains `wanted`, else the only one.

    Raises NoReader, NoCard, SeveralCards, UnsuitableCard (other cards only), ReaderFailed."""
    listed = [one for one in readers(seconds=seconds) if wanted.lower() in one.name.lower()]
    if not listed:
        raise NoReader("no reader of that name")
    present = [one for one in listed if one.atr]
    if not present:
        raise NoCard("no card in the reader")
    good, refused = [], UnsuitableCard("not a CPS card")
    for one in present:
        try:
            model_of(one.atr)
            good.append(one.name)
        except UnsuitableCard as error:
            refused = error
    if not good:
        raise refused
    if len(good) > 1:
        raise SeveralCards(", ".join(good))
    return good[0]


@dataclass(frozen=True, slots=True)
class PcscCards:
    """The card that PC/SC sees in a reader whose name contains `reader`; a `caducee.agent.desk.Cards`."""

    reader: str = ""

    def session(self) -> AbstractContextManager[CpsCard]:
        """The only card there, for one piece of work. Raises CardError."""
        return session(find_reader(self.reader))


@contextmanager
def session(reader: str, *, seconds: float = CALL_SECONDS) -> Iterator[CpsCard]:
    """The card in a reader, for one piece of work during which no other program speaks to it. The card is reset at the
    end, which forgets the PIN. Raises CardError."""
    link = PcscLink(reader, seconds=seconds)
    try:
        with link.exclusive():
            yield CpsCard.open(link)
    finally:
        link.close()


class PcscLink:
    """A connection with the card of one reader; a `smime.cps_apdu.Link`. Raises CardError on everything that fails."""

    def __init__(self, reader: str, *, seconds: float = CALL_SECONDS) -> None:
        self._worker = _Worker(seconds)
        self._depth = 0
        self._fresh = True
        self._lock = threading.RLock()
        try:
            self._context, self._handle, self._protocol, self._atr = self._worker.run(lambda: _connect(reader))
        except BaseException:
            self._worker.stop()
            raise

    @property
    def atr(self) -> bytes:
        return self._atr

    @property
    def protocol(self) -> int:
        return 1 if scard is not None and self._protocol == scard.SCARD_PROTOCOL_T1 else 0

    def transmit(self, command: bytes) -> bytes:
        """See `Link.transmit`."""
        with self._lock:
            return self._worker.run(lambda: _transmit(self._handle, self._protocol, command))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Link.exclusive`; may be nested. The card is reset at the end of the outermost one, before anybody else
        has it: no other program finds the PIN verified."""
        with self._lock:
            if self._depth == 0:
                fresh, self._fresh = self._fresh, False
                self._worker.run(lambda: _begin(self._handle, self._protocol, fresh=fresh))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    with suppress(CardError):
                        self._worker.run(
                            lambda: _check(scard.SCardEndTransaction(self._handle, scard.SCARD_RESET_CARD))
                        )

    def close(self) -> None:
        """Let the card go. Never raises."""
        with suppress(CardError):
            self._worker.run(lambda: _disconnect(self._context, self._handle))
        self._worker.stop()


class _Worker:
    """A thread that makes the blocking calls of one link, so that its owner can stop waiting."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._dead = False
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="pcsc", daemon=True).start()

    def run(self, call: Callable[[], _T]) -> _T:
        """The call's result or error. Raises ReaderFailed when it takes too long; no call is made after that."""
        if self._dead:
            raise ReaderFailed("the reader did not answer in time")
        future: Future[_T] = Future()
        self._tasks.put((call, future))
        try:
            return future.result(self._seconds)
        except FutureTimeout:
            self._dead = True
            raise ReaderFailed("the reader did not answer in time") from None

    def stop(self) -> None:
        """Let the thread end after what it is doing."""
        self._dead = True
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            call, future = task
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def _list_readers() -> list[ReaderState]:
    context = _context()
    try:
        code, names = scard.SCardListReaders(context, [])
        if code == scard.SCARD_E_NO_READERS_AVAILABLE or (code == 0 and not names):
            raise NoReader("no reader is plugged in")
        _check(code)
        code, states = scard.SCardGetStatusChange(context, 0, [(name, scard.SCARD_STATE_UNAWARE) for name in names])
        _check(code)
        present = scard.SCARD_STATE_PRESENT
        return [ReaderState(name, bytes(atr) if state & present else b"") for name, state, atr in states]
    finally:
        scard.SCardReleaseContext(context)


def _wait(known: list[ReaderState], seconds: float) -> bool:
    context = _context()
    try:
        states = [(one.name, scard.SCARD_STATE_PRESENT if one.atr else scard.SCARD_STATE_EMPTY) for one in known]
        code, _ = scard.SCardGetStatusChange(context, int(seconds * 1000), states)
        if code == scard.SCARD_E_TIMEOUT:
            return False
        _check(code)
        return True
    finally:
        scard.SCardReleaseContext(context)


def _context() -> int:
    if scard is None:
        raise NoReader("pyscard is not installed")
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    if code != 0:
        raise NoReader("the smart card service does not run")
    return int(context)


def _connect(reader: str) -> tuple[int, int, int, bytes]:
    context = _context()
    try:
        both = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        code, handle, protocol = scard.SCardConnect(context, reader, scard.SCARD_SHARE_SHARED, both)
        _check(code)
        code, _, _, _, atr = scard.SCardStatus(handle)
        for _ in range(_RECONNECTIONS):  # another session ended, and reset the card, meanwhile
            if code != scard.SCARD_W_RESET_CARD:
                break
            _check(scard.SCardReconnect(handle, scard.SCARD_SHARE_SHARED, protocol, scard.SCARD_LEAVE_CARD)[0])
            code, _, _, _, atr = scard.SCardStatus(handle)
        _check(code)
    except BaseException:
        scard.SCardReleaseContext(context)
        raise
    return int(context), int(handle), int(protocol), bytes(atr)


def _begin(handle: int, protocol: int, *, fresh: bool) -> None:
    """Wait for our turn. A link that has done nothing yet has nothing to lose when another session reset the card."""
    code = scard.SCardBeginTransaction(handle)
    for _ in range(_RECONNECTIONS if fresh else 0):
        if code != scard.SCARD_W_RESET_CARD:
            break
        code, _ = scard.SCardReconnect(handle, scard.SCARD_SHARE_SHARED, protocol, scard.SCARD_LEAVE_CARD)
        _check(code)
        code = scard.SCardBeginTransaction(handle)
    _check(code)


def _transmit(handle: int, protocol: int, command: bytes) -> bytes:
    header = scard.SCARD_PCI_T1 if protocol == scard.SCARD_PROTOCOL_T1 else scard.SCARD_PCI_T0
    code, answer = scard.SCardTransmit(handle, header, list(command))
    _check(code)
    if not answer:  # some drivers answer nothing for a card that is gone
        raise CardRemoved("the card was removed or reset")
    return bytes(octet & 0xFF for octet in answer)


def _disconnect(context: int, handle: int) -> None:
    scard.SCardDisconnect(handle, scard.SCARD_LEAVE_CARD)
    scard.SCardReleaseContext(context)


def _check(code: int) -> None:
    """Raise what a PC/SC return code means."""
    if code == 0:
        return
    gone = {scard.SCARD_W_REMOVED_CARD, scard.SCARD_W_RESET_CARD, scard.SCARD_W_UNPOWERED_CARD}
    if code in gone:
        raise CardRemoved("the card was removed or reset")
    if code in {scard.SCARD_E_NO_SMARTCARD, scard.SCARD_W_UNRESPONSIVE_CARD}:
        raise NoCard("no card answers in the reader")
    if code in {scard.SCARD_E_NO_SERVICE, scard.SCARD_E_SERVICE_STOPPED}:
        raise NoReader("the smart card service does not run")
    raise ReaderFailed(f"PC/SC error {code & 0xFFFFFFFF:08X}")
