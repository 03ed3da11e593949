"""Any interleaving of two sessions, each a process to the other, gives what one after the other would have given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstore import Account, FlagOperation, Store
from tests.mailstore.helpers import NOW, make_account, message, open_store, sql

FLAGS = ("\\Seen", "\\Deleted", "\\Flagged", "$Forwarded")
NAMES = ("INBOX", "Archives")
UIDS = st.lists(st.integers(1, 12), max_size=4, unique=True)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 1),
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 3)),
            st.tuples(st.just("store"), UIDS, st.sampled_from(FlagOperation), st.sets(st.sampled_from(FLAGS))),
            st.tuples(st.just("expunge"), st.none() | UIDS),
            st.tuples(st.just("move"), UIDS),
            st.tuples(st.just("copy"), UIDS),
            st.tuples(st.just("look")),
        ),
    ),
    max_size=30,
)


@dataclass
class Model:
    """Two folders: flags and message number by UID."""

    messages: list[dict[int, tuple[set[str], int]]] = field(default_factory=lambda: [{}, {}])
    next_uid: list[int] = field(default_factory=lambda: [1, 1])
    made: int = 0

    def add(self, place: int, flags: set[str], number: int) -> None:
        self.messages[place][self.next_uid[place]] = (flags, number)
        self.next_uid[place] += 1

    def apply(self, place: int, step: tuple[Any, ...]) -> None:
        here = self.messages[place]
        if step[0] == "append":
            for _ in range(step[1]):
                self.add(place, set(), self.made)
                self.made += 1
        elif step[0] == "store":
            for uid in set(step[1]) & here.keys():
                flags, number = here[uid]
                operation = {"set": step[3], "add": flags | step[3], "remove": flags - step[3]}[step[2].value]
                here[uid] = (set(operation), number)
        elif step[0] == "expunge":
            gone = [uid for uid in here if (uid in step[1] if step[1] is not None else "\\Deleted" in here[uid][0])]
            for uid in gone:
                del here[uid]
        elif step[0] in ("move", "copy"):
            for uid in sorted(set(step[1]) & here.keys()):
                self.add(1 - place, set(here[uid][0]), here[uid][1])
                if step[0] == "move":
                    del here[uid]


class Session:
    """What one client knows of both folders, brought forward by `changes` only."""

    def __init__(self, store: Store, folders: list[int]) -> None:
        self.store = store
        self.folders = folders
        self.views = [store.view(folder) for folder in folders]
        self.known = [
            dict(zip(view.uids, zip(view.flags, view.blobs, strict=True), strict=True)) for view in self.views
        ]
        self.reached = [view.folder.highest_modseq for view in self.views]

    def look(self, place: int) -> None:
        changes = self.store.changes(self.folders[place], self.reached[place])
        assert changes.highest_modseq >= self.reached[place]
        known = self.known[place]
        for one in changes.changed:
            assert one.modseq > self.reached[place]
            known[one.uid] = (one.flags, one.blob)
        for uid in changes.expunged:
            known.pop(uid, None)
        self.reached[place] = changes.highest_modseq

    def act(self, account: Account, place: int, step: tuple[Any, ...], made: int) -> None:
        store, folder, other = self.store, self.folders[place], self.folders[1 - place]
        if step[0] == "append":
            for number in range(made, made + step[1]):
                store.append(account.id, NAMES[place], message(number), (), NOW, NOW)
        elif step[0] == "store":
            store.store_flags(folder, step[1], step[2], step[3])
        elif step[0] == "expunge":
            store.expunge(folder, step[1])
        elif step[0] in ("move", "copy"):
            (store.move if step[0] == "move" else store.copy)(folder, step[1], other, NOW)
        else:
            self.look(place)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(STEPS)
def test_any_interleaving_equals_the_model(store: Store, place: Path, steps: list[Any]) -> None:
    other = open_store(place)
    number = len(store.accounts())
    account = make_account(store, f"a{number}@medecin.example")
    folders = [store.folder(account.id, name).id for name in NAMES]
    sessions = [Session(store, folders), Session(other, folders)]
    model = Model()
    for who, where, step in steps:
        sessions[who].act(account, where, step, model.made)
        model.apply(where, step)
    for where, folder in enumerate(folders):
        expected = {uid: (flags, message(made)) for uid, (flags, made) in model.messages[where].items()}
        for session in sessions:
            session.look(where)
            assert {
                uid: (set(flags), session.store.read_blob(blob)) for uid, (flags, blob) in session.known[where].items()
            } == expected
            view = session.store.view(folder)
            assert view.uids == sorted(expected)
            assert [set(flags) for flags in view.flags] == [expected[uid][0] for uid in view.uids]
            assert view.folder.uid_next == model.next_uid[where]
        assert_counts(place, folder)
    other.close()


def assert_counts(place: Path, folder_id: int) -> None:
    """The counts kept with a folder are those of its rows."""
    kept = sql(place, f"SELECT total, unseen, deleted, size, deleted_size FROM folders WHERE id = {folder_id}")  # noqa: S608
    rows = sql(place, f"SELECT flags, seen, size FROM messages WHERE folder_id = {folder_id}")  # noqa: S608
    marked = [row for row in rows if "\\Deleted" in row[0].split()]
    unseen = sum(not row[1] for row in rows)
    assert kept == [(len(rows), unseen, len(marked), sum(row[2] for row in rows), sum(row[2] for row in marked))]
    assert all(bool(row[1]) == ("\\Seen" in row[0].split()) for row in rows)
