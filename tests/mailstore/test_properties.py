"""The folder as a state machine: whatever the operations, the store equals a plain model of a mailbox, and `changes`
brings any old view to the new one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailstore import FlagOperation, Store
from tests.mailstore.helpers import NOW, make_account, message, open_store

FLAGS = st.frozensets(st.sampled_from(["\\Seen", "\\Deleted", "\\Flagged", "Urgent", "$Forwarded"]), max_size=3)
SIDE = st.sampled_from([0, 1])
UIDS = st.lists(st.integers(1, 12), max_size=5)


@dataclass
class Box:
    """A plain folder: what a mailbox is, without modseqs."""

    next: int = 1
    mail: dict[int, tuple[frozenset[str], bytes]] = field(default_factory=dict)

    def add(self, flags: frozenset[str], content: bytes) -> int:
        """A new message's UID."""
        self.mail[self.next] = (flags, content)
        self.next += 1
        return self.next - 1


@dataclass
class OldView:
    """What a client knew at some moment."""

    modseq: int
    mail: dict[int, frozenset[str]]


class Mailbox(RuleBasedStateMachine):
    """INBOX and Archives of one mailbox."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store: Store = open_store(Path(self.folder.name), create=True)
        self.boxes = (Box(), Box())
        self.old: list[tuple[int, OldView]] = []
        self.number = 0

    @initialize()
    def start(self) -> None:
        """The mailbox and its two folders."""
        self.account = make_account(self.store, "alice@medecin.example")
        self.names = ("INBOX", "Archives")
        self.ids = tuple(self.store.folder(self.account.id, name).id for name in self.names)

    @rule(side=SIDE, flags=FLAGS)
    def append(self, side: int, flags: frozenset[str]) -> None:
        """APPEND."""
        self.number += 1
        content = message(self.number)
        _, uid = self.store.append(self.account.id, self.names[side], content, flags, NOW, NOW)
        assert uid == self.boxes[side].add(flags, content)

    @rule(side=SIDE, uids=UIDS, operation=st.sampled_from(FlagOperation), flags=FLAGS)
    def flag(self, side: int, uids: list[int], operation: FlagOperation, flags: frozenset[str]) -> None:
        """STORE."""
        mail = self.boxes[side].mail
        for uid in set(uids) & mail.keys():
            before, content = mail[uid]
            after = {
                FlagOperation.SET: flags,
                FlagOperation.ADD: before | flags,
                FlagOperation.REMOVE: before - flags,
            }[operation]
            mail[uid] = (after, content)
        changes, refused = self.store.store_flags(self.ids[side], uids, operation, flags)
        assert [change.uid for change in changes] == sorted(set(uids) & mail.keys())
        assert refused == []

    @rule(side=SIDE, uids=st.none() | UIDS)
    def expunge(self, side: int, uids: list[int] | None) -> None:
        """EXPUNGE."""
        mail = self.boxes[side].mail
        gone = sorted(
            uid for uid, (flags, _) in mail.items() if (uid in uids if uids is not None else "\\Deleted" in flags)
        )
        for uid in gone:
            del mail[uid]
        assert self.store.expunge(self.ids[side], uids) == gone

    @rule(side=SIDE, goal=SIDE, uids=UIDS, move=st.booleans())
    def transfer(self, side: int, goal: int, uids: list[int], move: bool) -> None:
        """COPY and MOVE."""
        source = self.boxes[side].mail
        wanted = sorted(set(uids) & source.keys())
        expected = [(uid, self.boxes[goal].add(*source[uid])) for uid in wanted]
        if move:
            for uid in wanted:
                del source[uid]
        verb = self.store.move if move else self.store.copy
        assert verb(self.ids[side], uids, self.ids[goal], NOW)[1] == expected

    @rule(side=SIDE)
    def remember(self, side: int) -> None:
        """A client takes a view, and will come back with it."""
        view = self.store.view(self.ids[side])
        self.old.append((side, OldView(view.folder.highest_modseq, dict(zip(view.uids, view.flags, strict=True)))))

    @invariant()
    def the_store_is_the_model(self) -> None:
        """Views, counts, contents."""
        for folder_id, box in zip(getattr(self, "ids", ()), self.boxes, strict=False):
            view = self.store.view(folder_id)
            assert dict(zip(view.uids, view.flags, strict=True)) == {uid: flags for uid, (flags, _) in box.mail.items()}
            assert view.uids == sorted(view.uids)
            assert max(view.modseqs, default=0) <= view.folder.highest_modseq
            assert view.folder.uid_next == box.next
            assert view.folder.total == len(box.mail)
            assert view.folder.unseen == sum("\\Seen" not in flags for flags, _ in box.mail.values())
            for uid, blob in zip(view.uids, view.blobs, strict=True):
                assert self.store.read_blob(blob) == box.mail[uid][1]

    @invariant()
    def changes_bring_old_views_up_to_date(self) -> None:
        """QRESYNC's promise (RFC 7162 §3.2)."""
        for side, old in self.old:
            changes = self.store.changes(self.ids[side], old.modseq)
            mail = dict(old.mail)
            for uid in changes.expunged:
                mail.pop(uid, None)
            for change in changes.changed:
                assert change.modseq > old.modseq
                mail[change.uid] = change.flags
            assert mail == {uid: flags for uid, (flags, _) in self.boxes[side].mail.items()}

    def teardown(self) -> None:
        """No content is left behind once nothing refers to it."""
        self.store.sweep(NOW.replace(year=NOW.year + 100))
        kept = sum(path.is_file() for path in (Path(self.folder.name) / "blobs").glob("??/*"))
        assert kept == len({content for box in self.boxes for _, content in box.mail.values()})
        self.store.close()
        self.folder.cleanup()


TestMailbox = pytest.mark.slow(Mailbox.TestCase)
TestMailbox.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
