"""Messages that are prepared and accepted together, and what is remembered for a second."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest

from mailstore import Acceptance, Account, Direction, LocalDelivery, OverQuota, StoreError
from smtp import Kind, replies
from smtp.accepting import Acceptor, Accounts
from smtp.reception import Reception
from smtp.replies import SmtpRefusal
from tests.smtp.test_sender import _queue, _route
from tests.smtp.world import World, message

BOB = "bob@b.mssante.fr"


def acceptance(account: Account, number: int) -> Acceptance:
    content = message("alice@a.mssante.fr", account.address, message_id=f"g{number}@test")
    return Acceptance(
        direction=Direction.RECEPTION,
        principal="CN=A",
        mail_from="alice@a.mssante.fr",
        recipients=(account.address,),
        message_id=f"<g{number}@test>",
        received=content,
        local=(LocalDelivery(account.id, account.address, content),),
    )


async def test_each_message_of_a_group_has_its_own_answer(world: World) -> None:
    store = world.b.store
    bob, alice = store.find_account(BOB), store.find_account("alice@b.mssante.fr")
    assert bob is not None and alice is not None
    store.set_quota(alice.id, 1, None)
    acceptor = Acceptor(world.b.services)

    def refused() -> Sequence[Acceptance]:
        raise SmtpRefusal(replies.NO_CONVERSION)

    good, full, both, bad = await asyncio.gather(
        acceptor.accept([acceptance(bob, 1)]),
        acceptor.accept([acceptance(alice, 2)]),
        acceptor.accept([acceptance(bob, 3), acceptance(alice, 4)]),
        acceptor.prepared(refused),
        return_exceptions=True,
    )
    assert isinstance(good, list) and not good[0].duplicate
    assert isinstance(full, OverQuota) and isinstance(both, OverQuota) and isinstance(bad, SmtpRefusal)
    assert len(world.b.inbox("bob")) == 2 and world.b.inbox("alice") == []


async def test_a_mailbox_is_remembered_but_not_that_there_is_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    find = world.b.store.find_accounts

    def counted(addresses: Sequence[str]) -> list[Account | None]:
        asked.extend(addresses)
        return find(addresses)

    monkeypatch.setattr(world.b.store, "find_accounts", counted)
    accounts = Accounts(world.b.services)
    for _ in range(3):
        assert await accounts.find(BOB) is not None
        assert await accounts.find("nobody@b.mssante.fr") is None
    assert asked == [BOB, *["nobody@b.mssante.fr"] * 3]
    assert await accounts.look(BOB) is not None
    assert asked[-1] == BOB

    def broken(_addresses: Sequence[str]) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(world.b.store, "find_accounts", broken)
    monkeypatch.setattr("smtp.accepting.ACCOUNT_KEPT", 0.0)
    with pytest.raises(StoreError):
        await accounts.find(BOB)


async def test_the_short_way_and_the_general_one_write_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that others may wait for is prepared in their group, another in a thread of its own: same fields, same octets."""
    ways: list[bool] = []
    judged = Reception._is_quick

    async with world.b.listening(Kind.RECEPTION):
        for quick in (True, False):

            def forced(self: Reception, *arguments: Any, quick: bool = quick) -> bool:
                ways.append(judged(self, *arguments))
                return quick

            monkeypatch.setattr(Reception, "_is_quick", forced)
            _queue(world.a, BOB, name=f"w{quick:d}")
            await world.a.sender(_route(world.b)).once()
    first, second = (re.sub(rb"w[01]@test|id [0-9a-f]{20}|envid=\S+", b"", one) for one in world.b.inbox("bob"))
    assert ways == [True, True]
    assert first == second
    assert b"Authentication-Results" in first and b"dkim" not in first
