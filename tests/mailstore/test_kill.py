"""`kill -9` in the middle of APPEND, STORE, EXPUNGE, MOVE, COPY and REPLACE: each is done or not, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mailstore import Account, Store
from tests.mailstore.helpers import NOW, blob_files, message, open_store
from tests.mailstore.test_interleaving import NAMES, Model, assert_counts

ROOT = Path(__file__).parents[2]
WORKER = textwrap.dedent("""
    import json, random, sys
    from pathlib import Path
    from mailstore import FlagOperation
    from tests.mailstore.helpers import open_store
    from tests.mailstore.test_interleaving import NAMES, Session
    store = open_store(Path(sys.argv[1]))
    account = store.find_account("alice@medecin.example")
    session = Session(store, [store.folder(account.id, name).id for name in NAMES])
    chance, made = random.Random(int(sys.argv[2])), int(sys.argv[3])
    while True:
        kind = chance.choice(["append", "append", "store", "expunge", "move", "copy"])
        where, uids = chance.randrange(2), [chance.randrange(1, 60) for _ in range(6)]
        step = {"append": ["append", 1], "store": ["store", uids, "add", ["\\\\Seen"]], "expunge": ["expunge", uids[:1]]}.get(
            kind, [kind, uids[:2]])
        print(json.dumps([where, step]), flush=True)
        given = [step[0], step[1], FlagOperation(step[2]), set(step[3])] if kind == "store" else step
        session.act(account, where, given, made)
        made += kind == "append"
        print("done", flush=True)
""")


@pytest.mark.slow
def test_kill_9_in_the_middle_of_anything(store: Store, account: Account, place: Path) -> None:
    folders = [store.folder(account.id, name).id for name in NAMES]
    model = Model()
    moments = random.Random(20260302)
    for turn in range(5):
        lines = _killed_worker(place, turn, model.made, moments.uniform(0.1, 0.5))
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if line == "done":
                continue
            where, step = _step(line)
            if following == "done" or _happened(store, folders, model, where, step):
                model.apply(where, step)
        for where, folder in enumerate(folders):
            view = store.view(folder)
            assert _state(store, folder) == {
                uid: (sorted(flags), message(made)) for uid, (flags, made) in model.messages[where].items()
            }
            assert view.folder.uid_next == model.next_uid[where]
            assert_counts(place, folder)
    again = open_store(place)
    again.sweep(NOW.replace(year=NOW.year + 100))
    kept = {path.name for path in blob_files(place)}
    assert kept == {blob for folder in folders for blob in again.view(folder).blobs}
    again.close()


def _killed_worker(place: Path, seed: int, made: int, seconds: float) -> list[str]:
    command = [sys.executable, "-c", WORKER, str(place), str(seed), str(made)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()  # it is at work
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    rest = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    return [line.strip() for line in (first, *rest)]


def _step(line: str) -> tuple[int, tuple[Any, ...]]:
    from mailstore import FlagOperation

    where, step = json.loads(line)
    if step[0] == "store":
        return where, (step[0], step[1], FlagOperation(step[2]), set(step[3]))
    return where, tuple(step)


def _happened(store: Store, folders: list[int], model: Model, where: int, step: tuple[Any, ...]) -> bool:
    """Whether the step that was cut is in the store: it must be there whole, or not at all."""
    before = [_modelled(model, place) for place in (0, 1)]
    after_model = Model([dict(one) for one in model.messages], list(model.next_uid), model.made)
    after_model.apply(where, step)
    after = [_modelled(after_model, place) for place in (0, 1)]
    now = [_state(store, folder) for folder in folders]
    assert now in (before, after)
    return now == after


def _modelled(model: Model, place: int) -> dict[int, tuple[list[str], bytes]]:
    return {uid: (sorted(flags), message(made)) for uid, (flags, made) in model.messages[place].items()}


def _state(store: Store, folder: int) -> dict[int, tuple[list[str], bytes]]:
    view = store.view(folder)
    return {
        uid: (sorted(flags), store.read_blob(blob))
        for uid, flags, blob in zip(view.uids, view.flags, view.blobs, strict=True)
    }
