"""Cards made by a practice authority, and a virtual reader shared by the tests of a module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from smime import cps_reader
from smime.cps_errors import CardError
from tests.cards.emulator import Card, Faults
from tests.cards.filesystem import Pair, Personalisation
from tests.cards.virtual import Pcscd, missing
from trustspace import PracticeAuthority

NATIONAL_ID = "810999000010"
NOW = datetime.now(UTC)


@dataclass
class Factory:
    """Personalises cards, as the national agency does."""

    authority: PracticeAuthority
    pairs: tuple[Pair, Pair]

    def personal(self, **more: object) -> Personalisation:
        return Personalisation(*self.pairs, **more)  # type: ignore[arg-type]

    def card(self, model: str = "CPS3", *, faults: Faults | None = None, **more: object) -> Card:
        return Card(self.personal(**more), model, faults or Faults())


def make_pairs(authority: PracticeAuthority, national_id: str = NATIONAL_ID) -> tuple[Pair, Pair]:
    """Signature and authentication pair of Dr Alice EXEMPLE."""
    issued = [
        authority.issue_professional(national_id, "EXEMPLE", "Alice", "Médecin", usage=usage, email=None, at=NOW)
        for usage in ("sign", "auth")
    ]
    first, second = (Pair(one.key, one.certificate) for one in issued)
    return first, second


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    authority = PracticeAuthority.create(tmp_path_factory.mktemp("cards-pki"), at=NOW - timedelta(days=1))
    return Factory(authority, make_pairs(authority))


@pytest.fixture(scope="module")
def pcscd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pcscd]:
    if why := missing():
        pytest.skip(why)
    # The client library reads PCSCLITE_CSOCK_NAME once in a process: every daemon of this one is found at the same place.
    daemon = Pcscd(tmp_path_factory.getbasetemp() / "pcscd")
    daemon.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCSCLITE_CSOCK_NAME", os.fspath(daemon.socket))
        yield daemon
    daemon.stop()


@pytest.fixture
def insert(pcscd: Pcscd) -> Iterator[Callable[..., str]]:
    """Puts a card in a reader and gives the reader's name once PC/SC sees it; pulled out at the end."""

    def put(card: Card, slot: int = 0) -> str:
        for _ in range(4):
            pcscd.slots[slot].insert(card)
            if name := seen(f"00 0{slot}", present=True):
                return name
            # The driver sometimes keeps a connection it has already lost, and never looks at the next one.
            pcscd.slots[slot].remove()
        raise AssertionError(f"slot {slot}: card not seen")

    yield put
    for number, slot in enumerate(pcscd.slots):
        slot.remove()
        seen(f"00 0{number}", present=False)


def seen(name: str, *, present: bool, seconds: float = 3.0) -> str:
    """The full name of the reader once a card is seen (or no more) in it; "" when that does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(CardError):
            states = [one for one in cps_reader.readers() if name in one.name]
            if found := [one.name for one in states if bool(one.atr) is present]:
                return found[0]
        time.sleep(0.05)
    return ""
