"""What every listener asks of the store for each message: whose address it is, and to accept it, with others when others wait.

Invariants: an address is asked for again after ACCOUNT_KEPT seconds, and at once when it was no mailbox; messages that wait are
prepared and accepted together, each with its own answer or its own error; what may take long is prepared before, apart: in
a group it would keep the others waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from mailstore import Acceptance, Accepted, Account
from smtp.services import Services
from smtp.together import Together

GROUP = 64
"""Messages prepared together, and acceptances in one transaction, at most."""
ACCOUNT_KEPT = 1.0
_ACCOUNTS = 4096

Prepare = Callable[[], Sequence[Acceptance]]
"""Makes the acceptances of one message; blocking, and quick."""


class Acceptor:
    """Accepts what waits in one transaction, at the price of one sync for all (ADR 0057)."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._together: Together[Prepare, list[Accepted]] = Together(self._work, GROUP, at_once=3)

    async def prepared(self, prepare: Prepare) -> list[Accepted]:
        """The answers to what `prepare` makes, in its order. Raises what it raises, or the first refusal of the store: the
        acceptances before and after that one hold all the same."""
        return await self._together.do(prepare)

    async def accept(self, acceptances: Sequence[Acceptance]) -> list[Accepted]:
        """The same for what is ready."""
        return await self._together.do(lambda: acceptances)

    def _work(self, group: Sequence[Prepare]) -> list[list[Accepted] | Exception]:
        found = [_tried(prepare) for prepare in group]
        ready = [one for made in found if not isinstance(made, Exception) for one in made]
        answers = self._answers(ready, self._services.clock())
        return [made if isinstance(made, Exception) else _told([next(answers) for _ in made]) for made in found]

    def _answers(self, ready: Sequence[Acceptance], now: datetime) -> Iterator[Accepted | Exception]:
        return iter(
            [
                answer
                for start in range(0, len(ready), GROUP)
                for answer in self._services.store.accept_all(ready[start : start + GROUP], now)
            ]
        )


def _tried(prepare: Prepare) -> Sequence[Acceptance] | Exception:
    try:
        return prepare()
    except Exception as error:
        return error


def _told(answers: list[Accepted | Exception]) -> list[Accepted] | Exception:
    accepted = [one for one in answers if not isinstance(one, Exception)]
    return accepted if len(accepted) == len(answers) else next(one for one in answers if isinstance(one, Exception))


class Accounts:
    """The mailboxes of addresses: what waits is looked up together, what was just found is remembered."""

    def __init__(self, services: Services) -> None:
        self._together: Together[str, Account | None] = Together(
            lambda group: services.store.find_accounts(group), GROUP
        )
        self._found: dict[str, tuple[Account, float]] = {}

    async def find(self, address: str) -> Account | None:
        """`Store.find_account`, as it was ACCOUNT_KEPT ago at most. Raises StoreUnavailable."""
        known = self._found.get(address)
        if known is not None and asyncio.get_running_loop().time() - known[1] < ACCOUNT_KEPT:
            return known[0]
        return await self.look(address)

    async def look(self, address: str) -> Account | None:
        """`Store.find_account`, as it is now. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        account = await self._together.do(address)
        if account is not None:
            if len(self._found) >= _ACCOUNTS:
                self._found.clear()
            self._found[address] = (account, now)
        return account
