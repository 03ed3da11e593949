"""The hospital's feed, the operator's desk and the dmp@ mailbox through `caducee serve` itself: real processes, real sockets.

One country serves the whole file. The hospital's software hands documents over in HL7 v2 on MLLP with mutual TLS, and
listens for business acknowledgements; the operator works with the commands of `caducee`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import make_msgid
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import mime
from caducee.cli import app
from caducee.demo.country import HOSPITAL, Country, Place, cast
from caducee.demo.report import PARIS, Writer, make_report, report_message
from caducee.demo.running import Running
from caducee.errors import UsageError
from caducee.mailboxes import NewMailbox, add_mailbox
from caducee.mailclient import Login, submit
from caducee.record import open_record
from caducee.sections import FeedSection, Hl7Section
from caducee.settings_file import settings_file
from caducee.wiring import open_store
from directory import people
from dmp_bridge.gateway import key_of
from dmp_bridge.mllp import MllpServer, send
from dossier import Entry, RecordView, Status
from ihe import hl7v2
from ihe.cda import read_cda
from ihe.samples import make_crh_n1, synthetic_author, synthetic_patient, synthetic_structure
from mailstore import Deposit, DepositState, MailboxKind, ReceiptKind, ReceiptState, StoreError
from tests.ihe.test_hl7 import mdm
from tests.journey import support
from trustspace import Anchors, server_context

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ALL = "MASQUE_PS=N INVISIBLE_PATIENT=N INVISIBLE_REP_LEGAUX=N DESTDMP=Y DESTMSSANTEPS=Y ACK_RECEPTION=Y"
DMP_MAILBOX = f"dmp@{HOSPITAL}"


@dataclass
class Heard:
    """What the hospital's software was told by business acknowledgements."""

    messages: list[hl7v2.Message] = field(default_factory=list)

    def __call__(self, frame: bytes, peer: bytes | None) -> bytes:
        """Take one."""
        message = hl7v2.parse(frame)
        self.messages.append(message)
        return hl7v2.build_ack(message, "AA", control_id="1", at=datetime.now(UTC))

    async def about(self, control_id: str, event: str = "Z01") -> hl7v2.Message:
        """The acknowledgement of this hand-over, by the record (Z01), a recipient's operator (Z02) or a reader (Z03)."""
        async with asyncio.timeout(support.PATIENCE):
            while True:
                for message in self.messages:
                    told = message.first("OBX")
                    if told is not None and told.get(4) == control_id and message.kind[1] == event:
                        return message
                await asyncio.sleep(0.05)


@dataclass
class Hospital:
    """The running country, and the hospital's software beside it."""

    running: Running
    heard: Heard
    port: int

    @property
    def country(self) -> Country:
        """The country."""
        return self.running.country

    async def hand_over(self, data: bytes, port: int = 0) -> tuple[str, str]:
        """MSA-1 and MSA-2 of the answer."""
        tls = support.gateway_tls(self.country)
        return await asyncio.to_thread(
            send, "127.0.0.1", port or self.port, data, tls=tls, server_name="127.0.0.1", seconds=support.PATIENCE
        )

    async def deposit_of(self, unique_id: str, *states: DepositState, place: Place | None = None) -> Deposit:
        """The last deposit of a document, once in one of these states."""
        where = place or self.country.hospital
        store = open_store(where.folder, where.settings)
        try:
            async with asyncio.timeout(support.PATIENCE):
                while True:
                    found = [one for one in store.deposits(None) if one.unique_id == unique_id]
                    if found and found[-1].state in states:
                        return found[-1]
                    await asyncio.sleep(0.05)
        finally:
            store.close()

    def record_of(self, seed: int) -> list[Entry]:
        """What the record holds about a synthetic patient."""
        store = open_record(self.country.national.folder)
        try:
            return RecordView(store, "test").show(synthetic_patient(seed).ins)
        finally:
            store.close()


def _with_feed(place: Place, port: int, country: Country) -> None:
    """Give the hospital its feed, before it starts."""
    key = key_of(country.gateway.certificate.public_bytes(Encoding.DER))
    feed = FeedSection(
        application="RIS-Y|Organisation-Y",
        mailbox=people.GATEWAY,
        certificate_key=key,
        acknowledgements=f"127.0.0.1:{port}",
    )
    base = place.settings.listen.submission
    ports = {"hl7": base + 7, "monitor": base + 8, "deposits_monitor": base + 9}
    listen = place.settings.listen.model_copy(update=ports)
    settings = place.settings.model_copy(update={"listen": listen, "hl7": Hl7Section(feeds={"ris": feed})})
    place.folder.settings.write_text(settings_file(settings), encoding="utf-8")


def _with_dmp_mailbox(country: Country) -> None:
    """The hospital's dmp@ mailbox; the GPs' operator deposits nothing of what they send."""
    doctors = country.doctors
    dmp = doctors.settings.dmp.model_copy(update={"policy": "never"})
    changed = doctors.settings.model_copy(update={"dmp": dmp})
    doctors.folder.settings.write_text(settings_file(changed), encoding="utf-8")
    place = country.hospital
    store = open_store(place.folder, place.settings)
    try:
        mailbox = NewMailbox(DMP_MAILBOX, MailboxKind.APP, place.settings.operator.structure_id, "DMP")
        add_mailbox(store, mailbox, place.settings.operator, at=datetime.now(UTC), authority=country.authority)
    finally:
        store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hospital(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hospital]:
    country = support.new_country(tmp_path_factory.mktemp("feed") / "country")
    heard = Heard()
    anchors = Anchors.load(country.authority.folder)
    own = country.authority.issue_server(
        "127.0.0.1",
        "CHU EXEMPLE",
        people.CHU_EXEMPLE.national_id,
        "Paris (75)",
        ips=("127.0.0.1",),
        at=datetime.now(UTC),
    )
    tls = server_context(own.chain, own.key, client_anchors=anchors, client="required")
    listener = MllpServer(heard, host="127.0.0.1", port=0, tls=tls)
    await listener.start()
    _with_feed(country.hospital, listener.port, country)
    _with_dmp_mailbox(country)
    async with Running(country) as running:
        yield Hospital(running, heard, country.hospital.settings.listen.submission + 7)
    await listener.stop()


def hospital_report(seed: int, *, text: str = "%PDF-1.4 x", replaces: str = "", version: int = 1) -> bytes:
    """A report of the hospital's cardiologist."""
    doctor, chu = cast().cardiologist, people.CHU_EXEMPLE
    author = synthetic_author(doctor.national_id, doctor.surname, doctor.given_name)
    structure = synthetic_structure(chu.national_id, chu.name)
    return make_crh_n1(
        synthetic_patient(seed),
        author,
        structure,
        at=datetime.now(PARIS),
        pdf=text.encode(),
        replaces=replaces,
        version=version,
    )


def message(content: bytes, control_id: str, seed: int, *, flags: str = ALL, **options: str) -> bytes:
    """An MDM of the hospital's software, to the GP."""
    doctor = cast().cardiologist
    data = mdm(content, flags=flags, **options).decode()
    data = data.replace("279035121518989", synthetic_patient(seed).ins).replace("|015|P|", f"|{control_id}|P|")
    data = data.replace("899900000019^EXEMPLE^Alice", f"{doctor.national_id}^{doctor.surname}^{doctor.given_name}")
    return (data + f"PRT||UC||RCT^^participation|||||||||||^^X.400^{cast().gp.mail}\r").encode()


async def caducee(*arguments: str, place: Place) -> str:
    """What a command of the operator's prints."""
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--dir", str(place.folder.root)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


async def refused(*arguments: str, place: Place) -> str:
    """What a command says that refuses; `caducee` prints it on one line and ends with code 2."""
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--dir", str(place.folder.root)])
    assert isinstance(result.exception, UsageError | StoreError), (result.output, result.exception)
    return str(result.exception)


async def test_a_hand_over_is_a_message_a_deposit_and_a_business_acknowledgement(hospital: Hospital) -> None:
    content = hospital_report(501)
    data = message(content, "T02-1", 501)
    assert await hospital.hand_over(data) == ("AA", "T02-1")
    # The answer was lost, the software says it again: nothing is doubled.
    assert await hospital.hand_over(data) == ("AA", "T02-1")
    told = (await hospital.heard.about("T02-1")).first("OBX")
    assert told is not None and told.get(5) == "Y"
    unique_id = read_cda(content).unique_id
    assert [entry.unique_id for entry in hospital.record_of(501)] == [unique_id]
    await support.settled(hospital.country)
    async with support.mailbox(hospital.country, hospital.country.doctors, cast().gp.mail) as inbox:
        found = [fields for _, _, fields in await inbox.headers(5) if b"XDM/1.0/DDM" in fields]
    assert len(found) == 1


async def test_delivery_and_reading_are_passed_on_to_the_feed(hospital: Hospital) -> None:
    """Z02 when the GP's operator says by a DSN that it delivered, Z03 when the GP's receipt of reading came."""
    country = hospital.country
    data = message(hospital_report(507), "T02-7", 507, flags=f"{ALL} ACK_LECTURE_MSS=Y")
    assert (await hospital.hand_over(data))[0] == "AA"
    delivered = await hospital.heard.about("T02-7", "Z02")
    first, second = delivered.all("OBX")
    assert (first.get(3, 1), first.get(5)) == ("ACK_RECEPTION_MSS", "Y")
    assert (second.get(3, 1), second.get(5, 4)) == ("DESTINATAIRE_MSS", cast().gp.mail)
    async with support.mailbox(country, country.doctors, cast().gp.mail) as inbox:
        received = next(fields for _, _, fields in await inbox.headers(3) if b"<hl7." in fields)
    message_id = next(word.decode() for word in received.split() if word.startswith(b"<hl7."))
    store = open_store(country.hospital.folder, country.hospital.settings)
    # What the mail process writes when the MDN of a mail program comes in (tests/smtp/test_queue_and_receipts.py).
    at = datetime.now(UTC)
    told = store.answer_receipt(
        message_id, cast().gp.mail, ReceiptKind.READING, ReceiptState.NEGATIVE, "processed/error 904", at
    )
    store.close()
    assert told
    read = await hospital.heard.about("T02-7", "Z03")
    first, second = read.all("OBX")
    assert (first.get(3, 1), first.get(5)) == ("ACK_LECTURE_MSS", "N")
    assert second.get(3, 1) == "LECTEUR_MSS" and read.first("ERR") is not None


async def test_a_new_version_replaces_and_a_cancellation_deletes(hospital: Hospital) -> None:
    first = hospital_report(502)
    unique_id = read_cda(first).unique_id
    assert (await hospital.hand_over(message(first, "T02-2", 502)))[0] == "AA"
    await hospital.deposit_of(unique_id, DepositState.DEPOSITED)
    second = hospital_report(502, text="%PDF-1.4 corrigé", replaces=unique_id, version=2)
    newer = read_cda(second).unique_id
    data = message(second, "T10-2", 502, event="T10", control="RO", status="C")
    assert (await hospital.hand_over(data))[0] == "AA"
    await hospital.deposit_of(newer, DepositState.DEPOSITED)
    assert [entry.status for entry in hospital.record_of(502)] == [Status.DEPRECATED, Status.APPROVED]
    gone = message(second, "T04-2", 502, event="T04", control="CA", status="D")
    assert (await hospital.hand_over(gone))[0] == "AA"
    told = (await hospital.heard.about("T04-2")).first("OBX")
    reasons = [one.reason for one in support.deposits(hospital.country)]
    assert told is not None and told.get(5) == "Y", reasons
    assert [entry.status for entry in hospital.record_of(502)] == [Status.DEPRECATED, Status.DELETED]


async def test_a_business_acknowledgement_sent_to_us_makes_nothing(hospital: Hospital) -> None:
    """Two gateways whose feeds point at each other do not talk for ever: a ZAM is refused for good, and makes no ZAM."""
    business = hl7v2.Business("Z01", "T02-1", True)
    pair = ("RIS-Y", "Organisation-Y")
    zam = hl7v2.build_zam(business, sending=pair, receiving=pair, control_id="loop", at=datetime.now(UTC))
    before = len(support.deposits(hospital.country))
    assert await hospital.hand_over(zam) == ("AE", "loop")
    await asyncio.sleep(1.5)  # a round of the deposits' process
    assert len(support.deposits(hospital.country)) == before
    answered = [next(message.all("OBX")).get(4) for message in hospital.heard.messages]
    assert "T02-1" in answered and "loop" not in answered


async def test_the_operator_lists_shows_retries_and_abandons(hospital: Hospital) -> None:
    place, national = hospital.country.hospital, hospital.country.national
    await caducee("dossier", "close", synthetic_patient(503).ins, place=national)
    for control, text in (("T02-3", "%PDF a"), ("T02-3b", "%PDF b")):
        assert (await hospital.hand_over(message(hospital_report(503, text=text), control, 503)))[0] == "AA"
    told = (await hospital.heard.about("T02-3")).first("OBX")
    assert told is not None and told.get(5) == "N"
    await hospital.heard.about("T02-3b")
    held = json.loads(await caducee("deposits", "list", "--state", "needs_attention", "--json", place=place))
    assert len(held) == 2 and all("DMPClosed" in one["raison"] for one in held)
    first, second = (str(one["n°"]) for one in held)
    assert "DMPClosed" in await caducee("deposits", "show", first, place=place)
    await caducee("dossier", "open", synthetic_patient(503).ins, place=national)
    await caducee("deposits", "retry", first, "--reason", "rouvert", place=place)
    await hospital.deposit_of(held[0]["document"], DepositState.DEPOSITED)
    await caducee("deposits", "abandon", second, place=place)
    assert [entry.unique_id for entry in hospital.record_of(503)] == [held[0]["document"]]
    assert "abandoned" in await caducee("deposits", "show", second, place=place)
    assert "rouvert" in await caducee("deposits", "show", first, place=place)
    assert "fait" in await refused("deposits", "abandon", first, place=place)
    assert "inconnu" in await refused("deposits", "show", "999999", place=place)


async def test_an_imported_opposition_holds_and_a_later_consent_lets_go(hospital: Hospital, tmp_path: Path) -> None:
    place, patient = hospital.country.hospital, synthetic_patient(504)
    told = tmp_path / "oppositions.csv"
    told.write_text(f"ins;oid;opposition;date\n{patient.ins};{patient.ins_oid};oui;2026-01-01T00:00:00+01:00\n")
    await caducee("deposits", "oppositions", "import", str(told), place=place)
    shown = json.loads(await caducee("deposits", "oppositions", "show", patient.ins, "--json", place=place))
    assert [one["opposé"] for one in shown] == [True]
    content = hospital_report(504)
    assert (await hospital.hand_over(message(content, "T02-4", 504)))[0] == "AA"
    deposit = await hospital.deposit_of(read_cda(content).unique_id, DepositState.NEEDS_ATTENTION)
    assert deposit.reason.startswith("opposed") and hospital.record_of(504) == []
    told.write_text(f"ins;oid;opposition\n{patient.ins};{patient.ins_oid};non\n")
    await caducee("deposits", "oppositions", "import", str(told), place=place)
    content = hospital_report(504, text="%PDF-1.4 après")
    assert (await hospital.hand_over(message(content, "T02-4b", 504)))[0] == "AA"
    await hospital.deposit_of(read_cda(content).unique_id, DepositState.DEPOSITED)


async def test_a_document_hidden_from_its_patient_is_reminded_until_announced(hospital: Hospital) -> None:
    place, content = hospital.country.hospital, hospital_report(505)
    hidden = ALL.replace("INVISIBLE_PATIENT=N", "INVISIBLE_PATIENT=Y")
    assert (await hospital.hand_over(message(content, "T02-5", 505, flags=hidden)))[0] == "AA"
    unique_id = read_cda(content).unique_id
    await hospital.deposit_of(unique_id, DepositState.DEPOSITED)
    assert [entry.visibility for entry in hospital.record_of(505)] == [("INVISIBLE_PATIENT",)]
    waiting = json.loads(await caducee("deposits", "reminders", "--json", place=place))
    assert [one["jours"] for one in waiting if one["document"] == unique_id] == [14, 30]
    await caducee("deposits", "announced", unique_id, place=place)
    assert unique_id not in await caducee("deposits", "reminders", "--json", place=place)
    assert "aucun rappel" in await refused("deposits", "announced", unique_id, place=place)


async def test_what_the_dmp_mailbox_receives_is_deposited_and_what_others_receive_is_not(hospital: Hospital) -> None:
    """dmp@ of type APP deposits on reception, whatever the default; the sending side has deposited nothing of it."""
    country, doctor, chu = hospital.country, cast().cardiologist, people.CHU_EXEMPLE
    writer = Writer(doctor.national_id, doctor.surname, doctor.given_name, chu.national_id, chu.name)
    report = make_report(writer, at=datetime.now(UTC), seed=506)
    gp = cast().gp.mail
    for recipient, seen in ((cast().cardiologist.mail, False), (DMP_MAILBOX, True)):
        clear = report_message(report, sender=f"Dr <{gp}>", recipients=[recipient])
        fields = [("Message-ID", make_msgid(domain="cabinet.exemple")), ("Disposition-Notification-To", gp)]
        named = mime.prepend_fields(clear, fields)
        login = Login(gp, country.passwords[gp])
        [answer] = (
            await submit(country.doctors.settings, support.plain_tls(country), login, [recipient], named)
        ).values()
        assert answer.ok, answer
        if seen:
            done = await hospital.deposit_of(report.header.unique_id, DepositState.DEPOSITED)
            await _given_back(country, done, named)
        else:
            await _delivered(country, named)
            assert report.header.unique_id not in [one.unique_id for one in support.deposits(country)]
    assert [entry.unique_id for entry in hospital.record_of(506)] == [report.header.unique_id]
    doctors = open_store(country.doctors.folder, country.doctors.settings)
    assert doctors.deposits(None) == []
    doctors.close()


async def _given_back(country: Country, done: Deposit, sent: bytes) -> None:
    """The receipt reaches the author at the other operator, with the message as it came: signed, for dmp@ has no certificate
    in the directory to encrypt it to. OpenSSL finds the signature unbroken."""
    receipt = f"<deposit.{done.id}.deposited@{country.hospital.settings.operator.hostname}>"
    async with support.mailbox(country, country.doctors, cast().gp.mail) as inbox:
        raw = (await inbox.wait_for(receipt, support.PATIENCE)).content
    root = mime.parse(raw)
    [report] = [part for part in root.walk() if part.media_type == "multipart/report"]
    original = report.children[2]
    assert original.media_type == "message/rfc822"
    inside = mime.parse(original.body(raw))
    assert inside.get("Message-ID") == mime.parse(sent).get("Message-ID")
    assert inside.media_type == "multipart/signed"
    command = ["openssl", "cms", "-verify", "-noverify", "-out", "/dev/null"]
    said = await asyncio.to_thread(subprocess.run, command, input=original.body(raw), capture_output=True, check=False)
    assert said.returncode == 0, said.stderr


async def _delivered(country: Country, sent: bytes) -> None:
    message_id = mime.parse(sent).get("Message-ID") or ""
    async with support.mailbox(country, country.hospital, cast().cardiologist.mail) as inbox:
        await inbox.wait_for(message_id, support.PATIENCE)


async def test_the_figures_of_both_processes_tell_what_was_decided(hospital: Hospital) -> None:
    """After the tests above: counters at the decision points, gauges from the rows, nothing that names anybody."""

    def figures(port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    mail = await asyncio.to_thread(figures, hospital.port + 1)
    deposits = await asyncio.to_thread(figures, hospital.port + 2)
    assert (
        'caducee_hl7_hand_overs_total{answer="AA"}' in mail
        and 'caducee_deposits_planned_total{outcome="ready"}' in mail
    )
    assert 'caducee_deposits_attempts_total{outcome="deposited"}' in deposits
    assert 'caducee_hl7_acknowledgements_total{outcome="taken"}' in deposits
    assert 'caducee_deposits{state="abandoned"} 1.0' in deposits
    assert "@" not in mail + deposits and synthetic_patient(501).ins not in mail + deposits
