"""What the desk agent adds to a send, besides the card.

Rows: a message sent through the agent, which signs it and logs in with a practice card; the same work of the card alone (the
driver, PC/SC, the card's own signatures); the same message, signed beforehand, sent straight to the operator with the same
certificate, whose key is then in memory. What is left of the first once the other two of the same turn are taken off is the
agent's (median over the turns). Needs root, pcscd and vsmartcard-vpcd. A real card signs far more slowly than a practice one:
nothing here says how fast. `--json` for programs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import smtplib
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mime
import smime
from caducee.agent.desk import Desk
from caducee.agent.display import Question, Reply
from caducee.agent.pin import PinHolder
from caducee.demo import surgery
from caducee.demo.country import Country, cast, create_country
from caducee.demo.running import Running
from caducee.wiring import now
from smime.cps_reader import PcscCards
from trustspace import Anchors, client_context

TARGET_MS = 300.0


class Yes:
    """A holder who agrees at once."""

    def __init__(self, pin: bytes) -> None:
        self._pin = pin

    def ask(self, question: Question) -> Reply:
        return Reply(True, self._pin)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--sends", type=int, default=20, help="messages of each kind (default 20)")
    parser.add_argument("--kilobytes", type=int, default=100, help="size of the message (default 100)")
    parser.add_argument("--base-port", type=int, default=45000, help="first of three thousand ports (default 45000)")
    options = parser.parse_args()
    if why := surgery.missing():
        print(f"not measured: {why}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder) / "country", options))
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    for row in rows:
        print(f"{row['what']:70} {row['ms']:9.1f} ms")
    return 0


async def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """A country of its own, then the three sends by turns."""
    country = create_country(folder, at=now(), base_port=options.base_port)
    async with Running(country):
        return await asyncio.to_thread(by_turns, country, options)


def by_turns(country: Country, options: argparse.Namespace) -> list[dict[str, object]]:
    """Median of each kind of send, one after the other so that the machine's load bears on all."""
    raw = message(options.kilobytes * 1000)
    signer = smime.SoftwareSigner(country.card.signature.key, (country.card.signature.certificate,))
    signed = smime.sign_message(raw, signer, at=datetime.now(UTC))
    login = country.card.authentication
    anchors = Anchors.load(country.authority.folder)
    trust = client_context((login.certificate,), login.key, anchors, check_hostname=True)
    taken: dict[str, list[float]] = {"agent": [], "card": [], "direct": []}
    with surgery.Surgery(country, sends=options.sends + 1) as desk:
        os.environ.update(desk.reader.environment)
        alone = Desk(Yes(country.card.pin), PinHolder(0, time.monotonic), PcscCards(), clock=lambda: datetime.now(UTC))
        kinds: dict[str, Callable[[], object]] = {
            "agent": lambda: desk.send([cast().gp.mail], raw),
            "card": lambda: card_alone(alone),
            "direct": lambda: direct(country, trust, signed),
        }
        for turn in range(options.sends + 1):
            for name, send in kinds.items():
                begin = time.perf_counter()
                send()
                if turn:  # the first one warms caches and connections
                    taken[name].append((time.perf_counter() - begin) * 1000)
    added = [agent - card - straight for agent, card, straight in zip(*taken.values(), strict=True)]
    agent, card, straight, more = (statistics.median(one) for one in (*taken.values(), added))
    rows = [
        (f"through the agent, {len(raw) // 1000} KB, signed and logged in by card", agent),
        ("the card's work alone (signature, login; driver and PC/SC)", card),
        ("straight to the operator, signed beforehand, key in memory", straight),
        (f"what the agent adds (target {TARGET_MS:.0f})", more),
    ]
    return [{"what": what, "ms": round(ms, 1)} for what, ms in rows]


def message(size: int) -> bytes:
    """A letter with an attachment."""
    fields = [("From", cast().gp_with_own_key.mail), ("To", cast().gp.mail), ("Subject", "Compte rendu")]
    return mime.message(fields, mime.leaf("application/pdf", os.urandom(size * 3 // 4), filename="cr.pdf"))


def card_alone(desk: Desk) -> None:
    """What one send asks of the card: a signature of a few octets of text, the certificate, a login."""
    desk.sign(b"From: a@b.fr\r\nContent-Type: text/plain\r\n\r\nx\r\n", ["a@b.fr"])
    desk.certificate()
    desk.authenticate(hashlib.sha256(b"x").digest())


def direct(country: Country, trust: ssl.SSLContext, signed: bytes) -> None:
    """As a mail program that signs by itself does."""
    listen, doctor = country.doctors.settings.listen, cast().gp_with_own_key.mail
    with smtplib.SMTP_SSL(listen.local_host, listen.submissions, context=trust, timeout=60) as program:
        program.ehlo()
        assert program.docmd("AUTH", "EXTERNAL =")[0] == 235
        program.mail(doctor)
        program.rcpt(cast().gp.mail)
        code, text = program.data(signed)
        assert code == 250, text


if __name__ == "__main__":
    sys.exit(main())
