"""What the logs of this room hold at DEBUG: no body, no address, no password, whatever happens."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from smtp import Checker, Kind, Signer, load_key
from smtp.settling import tell_silences
from tests.smtp.test_queue_and_receipts import _key_file
from tests.smtp.test_submission import LOGGED_IN, PLAIN, _send
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import PASSWORD, World, message


async def test_nothing_sent_is_ever_logged(world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The whole way at DEBUG: login, submission, a crash, DKIM, the queue, the other operator, notices, a receipt."""
    logging.getLogger("mail.log").setLevel(logging.DEBUG)
    key = load_key(_key_file(tmp_path, "ed"), "s1", "a.mssante.fr")
    world.a.services = replace(world.a.services, dkim_signer=Signer(lambda: [key]))
    world.b.services = replace(world.b.services, dkim_checker=Checker({}, lambda _name: None))
    long = "corps-confidentiel\r\n" * 20_000
    with caplog.at_level(logging.DEBUG):
        async with world.a.listening(Kind.SUBMISSION_TLS):
            dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
            await dialogue.play(LOGGED_IN)
            await _send(dialogue, message("alice@a.mssante.fr", "x", body="corps-confidentiel"), "bob@a.mssante.fr")
            await _send(dialogue, message("alice@a.mssante.fr", "x", "X-Test: crash"), "bob@a.mssante.fr")
            for to in ("bob@b.mssante.fr", "nobody@b.mssante.fr"):
                await _send(dialogue, message("alice@a.mssante.fr", "x", body=long, message_id=to), to)
            await dialogue.play('C: RCPT TO:<"odd-secret"@b.mssante.fr>\nS: 503\nC: AUTH PLAIN x-secret\nS: 503')
            await dialogue.close()
        async with world.b.listening(Kind.RECEPTION):
            sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{world.b.ports[Kind.RECEPTION]}"})
            assert await sender.once() == 2
        world.clock.forward(days=8)
        tell_silences(world.a.services, world.clock.now)
    assert len(world.b.inbox("bob")) == 1 and len(world.a.inbox("alice")) == 1
    assert "unexpected error" in caplog.text
    for secret in ("confidentiel", "secret", PLAIN, PASSWORD, "alice@", "bob@", "nobody@", "m1@test"):
        assert secret not in caplog.text, secret
