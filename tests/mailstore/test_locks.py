"""Writers that meet on the same rows wait for one another, never in a circle (`mailstore.core`: the order of locks).

Before that order, two of PostgreSQL's writers could each hold what the other wanted: one was told "unavailable" after a second.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mailstore import Account, Direction, LocalDelivery, MailboxKind, NewMessage, Store
from mailstore.mailbox import SearchPart
from mailstore.model import Acceptance, NoSuchMessage
from tests.mailstore.helpers import NOW, make_account, open_store

ROUNDS = 6


def letter(number: int, conversations: list[int]) -> bytes:
    """A message of several conversations: what threads are found by."""
    ids = " ".join(f"<c{one}@medecin.example>" for one in conversations)
    return f"Subject: {number}\r\nMessage-ID: <m{number}@medecin.example>\r\nReferences: {ids}\r\n\r\n{number}\r\n".encode()


class Writers:
    """Every kind of writer, on the same conversations, contents and folders, each in an order of its own."""

    def __init__(self, store: Store, account: Account, other: Account, seed: int) -> None:
        self.store = store
        self.account = account
        self.other = other
        self.dice = random.Random(seed)
        self.inbox = store.folder(account.id, "INBOX").id
        self.archives = store.folder(account.id, "Archives").id
        self.elsewhere = store.folder(other.id, "INBOX").id

    def letters(self) -> list[NewMessage]:
        """A few contents out of few, shuffled."""
        chosen = self.dice.sample(range(8), 5)
        return [NewMessage(letter(one, self.dice.sample(range(6), 4)), frozenset(), NOW) for one in chosen]

    def append(self) -> None:
        self.store.append_messages(self.account.id, self.dice.choice(("INBOX", "Archives")), self.letters(), NOW)

    def replace(self) -> None:
        new = self.letters()[0]
        uids = self.store.view(self.inbox).uids
        for uid in uids[-1:]:
            with suppress(NoSuchMessage):  # another writer was first
                self.store.replace(self.inbox, uid, self.account.id, "Archives", new, NOW)

    def move(self) -> None:
        pair = [self.inbox, self.archives]
        self.dice.shuffle(pair)
        self.store.move(pair[0], self.store.view(pair[0]).uids[:3], pair[1], NOW)

    def copy_across(self) -> None:
        uids = self.store.view(self.inbox).uids[:4]
        self.store.copy(self.inbox, uids, self.elsewhere, NOW, viewer=self.other.id)

    def expunge(self) -> None:
        self.store.expunge(self.archives, self.store.view(self.archives).uids[:4])

    def search(self) -> None:
        self.store.search_text(self.inbox, SearchPart.TEXT, "nothing like it")

    def deliver(self) -> None:
        raws = self.letters()[:2]
        boxes = [self.account, self.other]
        self.dice.shuffle(boxes)
        local = tuple(
            LocalDelivery(box.id, box.address, one.content)
            for box, one in zip(boxes, raws, strict=True)
            if isinstance(one.content, bytes)
        )
        number = self.dice.randrange(10**9)
        self.store.accept(
            Acceptance(
                direction=Direction.SUBMISSION,
                principal=self.account.address,
                mail_from=self.account.address,
                recipients=tuple(one.address for one in boxes),
                message_id=f"<{number}@medecin.example>",
                received=letter(number, []),
                local=local,
            ),
            NOW,
        )

    def kinds(self) -> list[Callable[[], None]]:
        return [
            self.append,
            self.append,
            self.replace,
            self.move,
            self.copy_across,
            self.expunge,
            self.deliver,
            self.search,
        ]


@pytest.mark.slow
def test_writers_never_wait_in_a_circle(place: Path) -> None:
    store = open_store(place, create=True)
    account = make_account(store, "alice@medecin.example")
    other = store.add_account(
        "bob@medecin.example", MailboxKind.PER, display_name="Bob", national_id="810000000013", at=NOW
    )
    writers = [Writers(store, account, other, seed) for seed in range(8)]

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            kinds = writers[number].kinds()
            writers[number].dice.shuffle(kinds)
            for one in kinds:
                one()

    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(work, range(len(writers))))  # raises what a writer raised
    for name in ("INBOX", "Archives"):
        folder = store.folder(account.id, name)
        view = store.view(folder.id)
        assert len(view.uids) == folder.total
        for blob in set(view.blobs):
            assert store.read_blob(blob)
    store.close()
