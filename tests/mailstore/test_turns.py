"""Processes take turns at writing to an SQLite database."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from mailstore import StoreUnavailable
from mailstore.groups import ProcessTurn


def _hold(database: Path, held: Event) -> None:
    turn = ProcessTurn(database, 10)
    turn.take()
    held.set()
    time.sleep(60)


def test_the_turn_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    database = tmp_path / "mail.db"
    database.touch()
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(database, held), daemon=True)
    holder.start()
    assert held.wait(30)
    turn = ProcessTurn(database, 0.05)
    with pytest.raises(StoreUnavailable, match="verrouillée"):
        turn.take()
    holder.kill()
    holder.join()
    turn.take()
    turn.give()
    turn.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    database = tmp_path / "mail.db"
    database.touch()
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        turn = ProcessTurn(database, 10)  # its own file: what another process has
        for _ in range(20):
            turn.take()
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            turn.give()
        turn.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 80 and set(most) == {1}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="-turn"):
        ProcessTurn(tmp_path / "nowhere" / "mail.db", 1).take()
