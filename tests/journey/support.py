"""What the tests of the journey share: a country on free ports, a gateway that insists, and what it must end with."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, make_msgid
from pathlib import Path

import mime
from caducee.demo.country import Country, Place, cast, create_country
from caducee.demo.report import Report, Writer, make_report, report_message
from caducee.errors import UsageError
from caducee.mailclient import Login, Mailbox, submit
from caducee.record import open_record
from caducee.wiring import open_store
from directory import people
from dossier import Entry, RecordView
from mailstore import Deposit, DepositState, Store
from trustspace import Anchors, client_context

PATIENCE = 60.0
RECIPIENTS = (cast().gp.mail, cast().gp_with_own_key.mail)
"""Two at the same operator: a repeated hand-over may come back with them grouped otherwise."""


def free_base_port() -> int:
    """A base whose three thousand ports hold the country's, all free at this moment.

    Workers of a parallel run look in ranges of their own: between looking and binding, another could look too.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 3
    offsets = [base + port for base in (0, 1000, 2000) for port in (25, 143, 389, 443, 465, 587, 588, 636, 843, 993)]
    for base in range(24000 + 12000 * worker, 36000 + 12000 * worker, 3000):
        if all(_is_free(base + offset) for offset in offsets):
            return base
    raise AssertionError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def new_country(root: Path) -> Country:
    return create_country(root, at=datetime.now(UTC), base_port=free_base_port())


@dataclass(frozen=True, slots=True)
class Sent:
    """A report as a gateway has it ready: the same bytes at every attempt."""

    report: Report
    message_id: str
    content: bytes


_PATIENTS = itertools.count(101)


def reports() -> Iterator[Sent]:
    """Reports without end, each about a patient of its own."""
    author, chu = cast().cardiologist, people.CHU_EXEMPLE
    writer = Writer(author.national_id, author.surname, author.given_name, chu.national_id, chu.name)
    for seed in _PATIENTS:
        at = datetime.now(UTC)
        report = make_report(writer, at=at, seed=seed)
        message_id = make_msgid(domain="passerelle.chu-exemple.fr")
        yield Sent(report, message_id, message(report, message_id, at))


def message(report: Report, message_id: str, at: datetime) -> bytes:
    clear = report_message(report, sender=f"CHU <{people.GATEWAY}>", recipients=RECIPIENTS)
    return mime.prepend_fields(clear, [("Message-ID", message_id), ("Date", format_datetime(at))])


def gateway_tls(country: Country) -> ssl.SSLContext:
    anchors = Anchors.load(country.authority.folder)
    return client_context(country.gateway.chain, country.gateway.key, anchors, check_hostname=True)


def plain_tls(country: Country) -> ssl.SSLContext:
    return client_context(None, None, Anchors.load(country.authority.folder), check_hostname=True)


async def hand_over(country: Country, sent: Sent) -> str:
    """What a gateway does: send, and send the same bytes again until somebody says 250. Returns that answer."""
    content = mime.prepend_fields(sent.content, [("X-Caducee-Code", country.send_code)])
    tls, deadline, last = gateway_tls(country), time.monotonic() + PATIENCE, ""
    while time.monotonic() < deadline:
        try:
            answers = await submit(country.hospital.settings, tls, Login(people.GATEWAY), RECIPIENTS, content)
        except UsageError as error:
            last = str(error)
        else:
            if all(answer.ok for answer in answers.values()):
                return str(answers[RECIPIENTS[0]])
            assert not any(answer.permanent for answer in answers.values()), answers
            last = str(answers)
        await asyncio.sleep(0.1)
    raise AssertionError(f"never accepted: {last}")


def mailbox(country: Country, place: Place, address: str) -> Mailbox:
    return Mailbox(place.settings, plain_tls(country), Login(address, country.passwords[address]))


async def copies(country: Country, message_id: str) -> list[int]:
    """How many messages with this Message-ID each recipient has."""
    found = []
    for address in RECIPIENTS:
        async with mailbox(country, country.doctors, address) as inbox:
            found.append(len(await inbox.search(message_id)))
    return found


def entries(country: Country, sent: Sent) -> list[Entry]:
    """What the record holds about the patient of this report."""
    store = open_record(country.national.folder)
    try:
        return RecordView(store, "test").show(sent.report.header.patient.ins)
    finally:
        store.close()


def with_store(place: Place) -> Store:
    return open_store(place.folder, place.settings)


def deposits(country: Country) -> list[Deposit]:
    store = with_store(country.hospital)
    try:
        return store.deposits(None)
    finally:
        store.close()


async def settled(country: Country) -> None:
    """Wait until nothing waits any more: every recipient delivered or refused for good, every deposit final."""
    store, deadline = with_store(country.hospital), time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            waiting = [one for one in store.deposits(None) if one.state in {DepositState.READY, DepositState.RETRY}]
            if not waiting and not store.queue():
                return
            await asyncio.sleep(0.1)
        raise AssertionError(
            [(row.recipient, row.reply) for row in store.queue()] + [(one.state, one.reason) for one in waiting]
        )
    finally:
        store.close()
