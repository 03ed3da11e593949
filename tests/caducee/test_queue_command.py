"""`caducee queue …` and `caducee tls probe`, as the engineer on duty runs them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Acceptance, DeliveryState, Direction, OutgoingCopy, Settlement
from smtp import Kind
from tests.caducee.test_cli import caducee, folder, practice, refused
from tests.smtp.world import build, make_template, message

__all__ = ["folder", "practice"]
pytestmark = pytest.mark.slow
TO = "bob@b.mssante.fr"


def _waiting(folder: Path) -> str:
    """A message deferred once; answers its submission id."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    content = message("alice@a.test", TO)
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal="alice@a.test",
        mail_from="alice@a.test",
        recipients=(TO,),
        message_id="<m1@test>",
        received=content,
        outgoing=(OutgoingCopy((TO,), content),),
    )
    at = now()
    accepted = store.accept(acceptance, at)
    (row,) = store.lease_outgoing("worker", at, at - at.replace(year=at.year - 1), 1)
    evidence = {"host": "mss.b.test:25", "rule": "TLS_REQUIRED"}
    deferred = Settlement(DeliveryState.QUEUED, "451 4.4.1 cannot connect", at, evidence)
    store.settle_outgoing(row.row_id, "worker", deferred, at)
    store.close()
    return accepted.submission_id


def _said(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_why_a_message_waits_and_what_may_be_done(folder: Path) -> None:
    submission = _waiting(folder)
    place = ("--dir", str(folder))
    attempt, present = _said(caducee("queue", "why", submission, "--json", *place))
    assert attempt["réponse"] == "451 4.4.1 cannot connect"
    assert attempt["preuves"] == "host=mss.b.test:25; rule=TLS_REQUIRED"
    assert "b.mssante.fr: NON/NO" in present["preuves"], "the white list in force, as the sender would ask it"
    assert present["réponse"].startswith("prochain essai / next attempt")
    assert caducee("queue", "hold", "<m1@test>", *place).returncode == 0
    assert "retenu par l'exploitant" in _said(caducee("queue", "why", "m1@test", "--json", *place))[-1]["réponse"]
    assert "rien à faire" in refused(caducee("queue", "hold", submission, *place))
    assert caducee("queue", "release", submission, *place).returncode == 0
    assert "host:port" in refused(caducee("queue", "reroute", submission, "mx2.b.test:99999", *place))
    assert caducee("queue", "reroute", submission, "mx2.b.test:2525", *place).returncode == 0
    assert "par/by mx2.b.test:2525" in _said(caducee("queue", "why", submission, "--json", *place))[-1]["réponse"]
    assert "inconnu de la file" in refused(caducee("queue", "why", "12345678901", *place))


async def test_a_probe_says_which_rule_stops_a_domain(folder: Path, tmp_path: Path) -> None:
    """The peer's certificate is of an authority that is not ours: nothing would leave, and the probe shows why."""
    template = tmp_path / "template"
    template.mkdir()
    make_template(template)
    world = build(template, tmp_path / "world")
    async with world.b.listening(Kind.RECEPTION):
        routes = {"CADUCEE_ROUTES": json.dumps({"b.mssante.fr": f"127.0.0.1:{world.b.ports[Kind.RECEPTION]}"})}
        done = await asyncio.to_thread(
            caducee, "tls", "probe", "b.mssante.fr", "--json", "--dir", str(folder), **routes
        )
    assert done.returncode == 1, done.stderr
    steps = {row["étape"]: row["résultat"] for row in json.loads(done.stdout)}
    assert steps["route"].startswith("127.0.0.1:")
    assert steps["refus / refusal"].startswith("451 4.")
    assert "CN=mss.b.test" in steps["dn"] and steps["rule"]
    assert world.b.inbox("bob") == []
    world.a.store.close()
    world.b.store.close()
