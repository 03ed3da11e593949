"""Summaries of added messages are made a moment later, and nobody misses one meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from mailstore import Account, NewMessage, Store, StoreUnavailable, summariser
from tests.mailstore.helpers import NOW, message, open_store, settle_summaries, sql


def _add(store: Store, account: Account, *contents: bytes) -> tuple[int, list[int]]:
    """Messages in INBOX; the folder and their UIDs."""
    _, uids = store.append_messages(account.id, "INBOX", [NewMessage(one, frozenset(), NOW) for one in contents], NOW)
    return store.folder(account.id, "INBOX").id, uids


def _kept(place: Path) -> int:
    return sum(row[0] is not None for row in sql(place, "SELECT sealed_summary FROM contents"))


def _expected(uids: list[int], *contents: bytes) -> dict[int, bytes]:
    return {uid: content.split(b"\r\n")[0] for uid, content in zip(uids, contents, strict=True)}


def test_asked_at_once_kept_soon(store: Store, account: Account, place: Path) -> None:
    contents = [message(number) for number in range(200)]
    folder, uids = _add(store, account, *contents)
    assert store.summaries(folder, uids) == _expected(uids, *contents)
    settle_summaries(store)
    assert _kept(place) == 200
    assert store.summaries(folder, uids) == _expected(uids, *contents)
    assert store._summariser._held == 0


def test_those_of_a_closed_store_are_kept(store: Store, account: Account, place: Path) -> None:
    _add(store, account, message(1), message(2))
    store.close()
    assert _kept(place) == 2


def test_without_room_it_is_made_at_once(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summariser, "MOST", len(message(1)))
    folder, uids = _add(store, account, message(1), message(2, "x" * 5000))
    assert store.summaries(folder, uids) == _expected(uids, message(1), message(2))
    assert _kept(place) >= 1
    assert store._summariser._held <= len(message(1))


def test_what_is_told_twice_waits_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is tried again tells of its contents again."""
    begun, going = threading.Event(), threading.Event()

    def slow(content: bytes) -> bytes:
        begun.set()
        going.wait(10)
        return content

    monkeypatch.setattr(store._summariser, "_make", slow)
    for _ in range(2):
        store._summariser.add({"a" * 32: b"one", "b" * 32: b"other"})
        begun.wait(10)
    assert store._summariser._held == 8
    monkeypatch.setattr(summariser, "MOST", 10)
    store._summariser.add({"c" * 32: b"none left"})
    assert store._summariser._held == 8, "many at once, each told that there was room"
    going.set()
    settle_summaries(store)
    assert store._summariser._held == 0


def test_what_the_store_holds_already_is_not_made_again(store: Store, account: Account) -> None:
    _add(store, account, message(1))
    settle_summaries(store)
    _add(store, account, message(1))
    assert store._summariser._waiting == store._summariser._made == {}


def test_what_cannot_be_kept_is_left_to_its_reader(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_made: Mapping[str, bytes]) -> None:
        raise StoreUnavailable("no")

    with monkeypatch.context() as patch:
        patch.setattr(store._summariser, "_put", refused)
        folder, uids = _add(store, account, message(1))
        settle_summaries(store)
    assert _kept(place) == 0
    assert store.summaries(folder, uids) == {}
    other = open_store(place)  # as after kill -9
    assert other.index_pending(10) == 1, "it is searched all the same"
    other.put_summaries({other.view(folder).blobs[0]: b"made by a reader"})
    assert list(store.summaries(folder, uids).values()) == [b"made by a reader"]
    other.close()
