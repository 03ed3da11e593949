"""What the processes of SMTP share: bounds, sockets, figures, names of leases."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caducee import smtp_parts
from caducee.figures import begin_figures, forget_process
from caducee.settings import Settings
from caducee.sharing import MOST, share, smtp_processes, worker_name
from caducee.sockets import SOCKETS, as_variable, close_sockets, inherited_sockets, open_sockets
from tests.smtp.world import free_port


def settings(**smtp: int) -> Settings:
    return Settings.model_validate({"operator": {"domains": ["a.fr"]}, "smtp": smtp})


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_make_the_whole_and_differ_by_one_at_most(whole: int, processes: int) -> None:
    shares = [share(whole, processes, number) for number in range(1, processes + 1)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


def test_bounds_hold_for_all_processes_together() -> None:
    parts = [smtp_parts.limits(settings(processes=3, peer_messages_per_minute=100), number) for number in (1, 2, 3)]
    assert [one.peer_messages for one in parts] == [34, 33, 33]
    assert sum(one.connections for one in parts) == 1000
    assert {one.size for one in parts} == {25 * 1024 * 1024}


def test_by_default_one_process_a_processor_and_not_too_many() -> None:
    assert smtp_processes(settings()) == min(MOST, len(os.sched_getaffinity(0)))
    assert smtp_processes(settings(processes=7)) == 7


def test_no_more_senders_than_connections_to_an_operator() -> None:
    few = settings(processes=4, connections_out=2)
    assert smtp_parts.senders(few) == 2


def test_the_first_process_ends_the_leases_of_those_that_are_no_more() -> None:
    three = settings(processes=3)
    first, second = smtp_parts.owners(three, 1), smtp_parts.owners(three, 2)
    assert first[0] == "mail" and second == ["mail-2"]
    assert not set(first) & {"mail-2", "mail-3"} and {"mail-4", "mail-64"} <= set(first)


def test_machines_that_share_a_database_end_no_leases_of_each_other() -> None:
    def named(**database: str) -> Settings:
        return Settings.model_validate({"operator": {"domains": ["a.fr"]}, "database": database})

    url = "postgresql+psycopg://caducee@db/caducee"
    here, one, other = named(url=url), named(url=url, machine="un"), named(url=url, machine="deux")
    assert smtp_parts.owner(here, 1) == f"{socket.gethostname()}/mail"
    assert worker_name(one, "deposits") == "un/deposits"
    assert not set(smtp_parts.owners(one, 1)) & set(smtp_parts.owners(other, 1))


def test_a_child_serves_what_its_parent_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    listen = {"host": "127.0.0.1", "reception": port, "submission": 0, "submissions": 0}
    sockets = open_sockets(Settings.model_validate({"operator": {"domains": ["a.fr"]}, "listen": listen}))
    code = (
        "from caducee.sockets import inherited_sockets\n"
        "one, = inherited_sockets()['reception']\n"
        "assert not one.get_inheritable()\n"
        "one.accept()[0].sendall(b'child')\n"
    )
    descriptors = [one.fileno() for one in sockets["reception"]]
    with socket.create_connection(("127.0.0.1", port)) as early:  # waits for whoever serves
        child = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=descriptors, env={**os.environ, SOCKETS: as_variable(sockets)}
        )
        assert early.recv(10) == b"child"
    assert child.wait(20) == 0
    close_sockets(sockets)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
    monkeypatch.delenv(SOCKETS, raising=False)
    assert not inherited_sockets()


def test_a_port_that_is_taken_leaves_nothing_open() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as taken:
        free = free_port()
        listen = {"host": "127.0.0.1", "reception": free, "submission": taken.getsockname()[1], "submissions": 0}
        with pytest.raises(OSError, match="in use"):
            open_sockets(Settings.model_validate({"operator": {"domains": ["a.fr"]}, "listen": listen}))
    socket.create_server(("127.0.0.1", free)).close()


def test_figures_of_the_dead_are_counted_but_not_their_gauges(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    begin_figures(folder)
    for name in ("counter_7.db", "gauge_livesum_7.db", "gauge_livesum_8.db", "gauge_livemostrecent_7.db"):
        (folder / name).touch()
    forget_process(folder, 7)
    assert sorted(one.name for one in folder.iterdir()) == ["counter_7.db", "gauge_livesum_8.db"]
    begin_figures(folder)
    assert list(folder.iterdir()) == []
