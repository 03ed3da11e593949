"""What an operator's engineer does to a running server: stop it, give it another certificate, read its figures."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from caducee.monitor import monitor_app, readiness
from mailstore import StoreUnavailable
from smtp import DecidingContext, Kind, Listen, SmtpServers
from tests.smtp.test_extensions import ALICE, BOB, OPEN, submitting
from tests.smtp.test_sender import _queue, _route
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import World, message
from trustspace.reloading import OwnCertificate, ReloadingContext


async def test_an_idle_session_hears_421_when_the_server_stops(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS) as servers:
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play("S: 220\nC: NOOP\nS: 250")
        await servers.stop()
        await dialogue.play("S: 421 4.3.2")
        assert await dialogue.line() == b""
        await dialogue.close()


async def test_a_message_under_way_is_taken_before_the_server_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun, go_on = world.a.store, asyncio.Event(), asyncio.Event()
    loop, accept = asyncio.get_running_loop(), store.accept_all

    def slow(*arguments: object) -> object:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return accept(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "accept_all", slow)
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN + "C: DATA\nS: 354")
        await dialogue.raw(message(ALICE, BOB) + b".\r\n")
        await begun.wait()
        stopping = asyncio.create_task(world.a.servers.stop())
        await asyncio.sleep(0)
        go_on.set()
        await dialogue.play("S: 250 2.0.0\nS: 421 4.3.2")
        await stopping
    assert len(world.a.inbox("bob")) + len(world.a.store.queue()) == 1


async def test_a_stopped_sender_holds_no_lease(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    async with world.b.listening(Kind.RECEPTION):
        sender = world.a.sender(_route(world.b))
        running = asyncio.create_task(sender.run())
        async with asyncio.timeout(20):
            while world.a.store.queue():
                await asyncio.sleep(0.02)
        sender.stop()
        await running
    assert all(not row.lease_owner for row in world.a.store.queue(None))


async def test_a_new_certificate_counts_without_restart(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    chain, key = world.a.certificate.write(folder, "server")
    own = OwnCertificate(chain, key)
    tls = ReloadingContext.following(lambda: DecidingContext.build(own.chain, own.key), own.stamp)
    servers = SmtpServers(world.a.services, [Listen(Kind.SUBMISSION_TLS, "127.0.0.1", 0, tls)], grace=1)
    await servers.start()

    async def shown() -> bytes:
        dialogue = await Dialogue.open(servers.ports[Kind.SUBMISSION_TLS], _trusting())
        der = dialogue.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await dialogue.close()
        return hashlib.sha256(der).digest()

    before = await shown()
    world.issue("mss.a.test").write(folder, "server")
    after = await shown()
    key.write_text("not a key")
    assert before != after == await shown(), "what cannot be read replaces nothing"
    await servers.stop()


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_decisions_are_counted(world: World) -> None:
    refused = {"service": "submission", "code": "550", "enhanced": "5.1.1"}
    before = (
        _value("caducee_smtp_replies_total", **refused),
        _value("caducee_smtp_accepted_total", service="submission"),
    )
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<nobody@a.mssante.fr>\nS: 550 5.1.1")
        await dialogue.play("C: RCPT TO:<bob@a.mssante.fr>\nS: 250\nC: DATA\nS: 354")
        await dialogue.raw(message(ALICE, "bob@a.mssante.fr") + b".\r\n")
        await dialogue.play("S: 250")
    after = _value("caducee_smtp_replies_total", **refused), _value("caducee_smtp_accepted_total", service="submission")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    client = TestClient(monitor_app(world.a.store, world.a.services.trust, lambda: True, list))
    shown = client.get("/metrics").text
    assert "caducee_smtp_accepting_seconds_bucket" in shown and "caducee_trust_decisions_total" in shown
    assert "mssante.fr" not in shown and "alice" not in shown


def test_ready_says_which_part_is_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caducee.monitor.now", world.clock)
    trust, store = world.a.services.trust, world.a.store
    client = TestClient(monitor_app(store, trust, lambda: True, list))
    assert client.get("/healthz").text == "ok\n"
    assert (client.get("/readyz").status_code, set(readiness(store, trust, lambda: True).values())) == (200, {"ok"})
    assert readiness(store, trust, lambda: False)["listeners"] == "not listening"

    def away() -> dict[str, int]:
        raise StoreUnavailable("Base verrouillée. / Database locked.")

    monkeypatch.setattr(store, "queue_sizes", away)
    world.clock.forward(days=30)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert (answer.json()["store"], answer.json()["white_list"]) == ("unavailable", "stale")
    assert client.get("/healthz").status_code == 200
