"""What a receipt gives back: the whole message as it came, kept until it is told and not a moment longer (mssante.md §3.5)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import func, select

import mime
from caducee.planner import Planner
from caducee.sections import DmpSection, OperatorSection, TrustSection
from caducee.settings import Settings
from directory import Directory
from dmp_bridge import Depositor, Desk, Outcome
from dmp_bridge.notices import carriable
from dmp_bridge.policy import Mode, Policy
from dmp_bridge.register import Register
from dmp_bridge.tell import Teller, Voice
from ihe.samples import synthetic_patient
from mailstore.model import (
    Acceptance,
    Account,
    DepositJob,
    DepositState,
    Direction,
    LocalDelivery,
    MailboxKind,
)
from mailstore.tables import contents, deposit_originals
from tests.dmp_bridge.bridge import MASTER_KEY, message, now, open_mailstore, xml
from tests.dossier.house import STRUCTURE, make_cda

PATIENT = synthetic_patient(1)
SENDER = "secretariat@hopital.mssante.fr"
BOX = "dmp@hopital.mssante.fr"
ERRORS = "erreurs@hopital.mssante.fr"
AT = now()
DONE = Outcome(DepositState.DEPOSITED, "Success", "déposé / deposited")
CLOSED = Outcome(DepositState.NEEDS_ATTENTION, "DMPClosed", "DMPClosed: DMP fermé / record closed")
LATER = Outcome(DepositState.RETRY, "transport", "transport: TimeoutError")


class Nobody:
    """A directory that knows no one."""

    def by_address(self, address: str) -> None:
        """Nobody."""


class Way:
    """An outlet that answers what it is told."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def carry_out(self, job: DepositJob, at: datetime) -> Outcome:
        """The outcome."""
        return self.outcome


class House:
    """A store with the mailboxes of the tests, and who deposits and tells."""

    def __init__(self, folder: Path, **dmp: object) -> None:
        self.store = open_mailstore(folder)
        for address in (SENDER, BOX, ERRORS):
            self.store.add_account(address, MailboxKind.APP, display_name="", national_id=STRUCTURE, at=now())
        self.register = Register(f"sqlite:///{folder / 'bridge.db'}", MASTER_KEY)
        section = DmpSection.model_validate({"url": "https://dmp.invalid", **dmp})
        # The structure of the synthetic documents has no valid key.
        operator = OperatorSection().model_copy(update={"structure_id": STRUCTURE})
        settings = Settings(dmp=section, trust=TrustSection(practice=True)).model_copy(update={"operator": operator})
        self.planner = Planner(settings, cast(Directory, Nobody()), Policy(Mode.BOTH), Desk())
        self.teller = Teller(
            self.store, self.register, hostname="mss.test", voice=Voice.NEVER, errors=section.error_mailbox
        )

    def close(self) -> None:
        """End it."""
        self.register.close()
        self.store.close()

    def account(self, address: str) -> Account:
        """A mailbox."""
        found = self.store.find_account(address)
        assert found is not None
        return found

    def submit(self, raw: bytes) -> int:
        """Hand a message in for SENDER; the number of its deposit."""
        planned = self.planner.plan(raw, sender=self.account(SENDER), at=AT, original=lambda: raw)
        acceptance = Acceptance(Direction.SUBMISSION, SENDER, SENDER, ("x@y.fr",), "<m@x.fr>", raw, deposits=planned)
        self.store.accept(acceptance, AT)
        return max(one.id for one in self.store.deposits())

    def receive(self, came: bytes, clear: bytes, *, mail_from: str = "gp@ailleurs.mssante.fr") -> int:
        """A message that came for BOX."""
        box = self.account(BOX)
        planned = self.planner.plan_received(clear, recipient=box, at=AT, mail_from=mail_from, original=lambda: came)
        local = (LocalDelivery(box.id, BOX, b"Received: here\r\n" + came),)
        acceptance = Acceptance(Direction.RECEPTION, "peer", mail_from, (BOX,), "<m>", came, local, deposits=planned)
        self.store.accept(acceptance, AT)
        return max(one.id for one in self.store.deposits())

    def end(self, number: int, outcome: Outcome) -> None:
        """Carry a deposit out."""
        worker = Depositor(
            self.store, Way(outcome), tell=self.teller, clock=lambda: AT, pause=lambda _: timedelta(minutes=1)
        )
        assert worker.run(number) is not None

    def inbox(self, address: str) -> list[bytes]:
        """The messages of a mailbox."""
        view = self.store.view(self.store.folder(self.account(address).id, "INBOX").id)
        return [self.store.read_blob(blob) for blob in view.blobs]

    def kept(self) -> tuple[int, int]:
        """How many originals and contents the store holds."""
        with self.store._db.read() as connection:
            return (
                connection.execute(select(func.count()).select_from(deposit_originals)).scalar_one(),
                connection.execute(select(func.count()).select_from(contents)).scalar_one(),
            )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """As it is by default."""
    opened = House(tmp_path)
    yield opened
    opened.close()


def sent(*more: tuple[str, str], author: str = SENDER, text: str = "") -> bytes:
    """A message with a document, in 8 bits."""
    raw = message(xml(make_cda(PATIENT, text=text)))
    raw = raw.replace(b"From: " + SENDER.encode(), b"From: " + author.encode()).replace(b"Bonjour", "Bientôt".encode())
    given = [("Subject", "XDM/1.0/DDM+CR médical"), ("Message-ID", "<m@x.fr>"), *more]
    return mime.prepend_fields(raw.replace(b"Subject: CR\r\n", b""), given)


ASKED = ("Disposition-Notification-To", SENDER)


def third_part(raw: bytes) -> mime.Part:
    """The last part of a report."""
    root = mime.parse(raw, max_depth=1)
    assert root.media_type in ("multipart/report", "multipart/mixed")
    whole = mime.parse(raw)
    return whole.children[-1]


@pytest.mark.parametrize("outcome", [DONE, CLOSED])
def test_the_whole_message_comes_back_octet_for_octet_and_is_let_go(house: House, outcome: Outcome) -> None:
    raw = sent(ASKED)
    number = house.submit(raw)
    assert house.kept()[0] == 1
    house.end(number, LATER)
    assert house.kept()[0] == 1 and house.inbox(SENDER) == []
    worker = Depositor(house.store, Way(outcome), tell=house.teller, clock=lambda: AT + timedelta(minutes=2))
    assert worker.run(number) is not None
    [told] = house.inbox(SENDER)
    part = third_part(told)
    assert part.media_type == "message/rfc822" and part.body(told) == raw
    assert part.encoding == mime.parse(told).encoding == "8bit"
    assert house.kept()[0] == 0
    # Nothing is left of it: the notice, and the document when it was not deposited.
    assert house.kept()[1] == (1 if outcome is DONE else 2)
    assert house.store.deposit_original(number) == b""


@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_a_lost_original_never_keeps_a_deposit_from_its_end(house: House, tmp_path: Path, loss: str) -> None:
    number = house.submit(sent(ASKED))
    with house.store._db.read() as connection:
        blob = connection.execute(select(deposit_originals.c.blob)).scalar_one()
    house.store._journal.settle()
    [file] = [one for one in tmp_path.rglob(blob) if one.is_file()]
    file.unlink() if loss == "gone" else file.write_bytes(file.read_bytes()[:40])
    house.end(number, DONE)
    assert house.store.deposits()[0].state is DepositState.DEPOSITED
    [told] = house.inbox(SENDER)
    assert third_part(told).media_type == "text/rfc822-headers" and b"is lost" in mime.parse(told).children[0].decoded(
        told
    )
    assert house.kept()[0] == 0


def test_what_came_encrypted_goes_back_encrypted(house: House) -> None:
    author = "gp@ailleurs.mssante.fr"
    clear = sent(("Disposition-Notification-To", author), author=author)
    came = f"From: {author}\r\nContent-Type: application/pkcs7-mime\r\n\r\nMIAGCSqGSIb3DQEHA6CAMIACAQ==\r\n".encode()
    number = house.receive(came, clear)
    house.end(number, DONE)
    [row] = house.store.lease_outgoing("t", AT, timedelta(seconds=1), 10)
    told = house.store.read_blob(row.blob)
    assert row.recipient == author and third_part(told).body(told) == came
    assert b"Bient" not in told and b"ClinicalDocument" not in told


def test_a_receipt_goes_to_the_envelope_s_sender_only(house: House) -> None:
    author = "gp@ailleurs.mssante.fr"
    clear = sent(("Disposition-Notification-To", author), author=author)
    number = house.receive(clear, clear, mail_from="other@ailleurs.mssante.fr")
    house.end(number, DONE)
    assert house.store.lease_outgoing("t", AT, timedelta(seconds=1), 10) == [] and house.kept()[0] == 0


def test_too_large_a_message_is_represented_by_its_header_and_this_is_said(tmp_path: Path) -> None:
    house = House(tmp_path, receipts_original_max=1000)
    number = house.submit(sent(ASKED))
    assert house.kept()[0] == 0
    house.end(number, DONE)
    [told] = house.inbox(SENDER)
    part = third_part(told)
    assert part.media_type == "text/rfc822-headers" and b"<m@x.fr>" in part.body(told)
    assert "trop volumineux" in mime.parse(told).children[0].decoded(told).decode()
    house.close()


def test_the_header_alone_when_the_operator_says_so(tmp_path: Path) -> None:
    house = House(tmp_path, receipts_original="headers")
    number = house.submit(sent(ASKED))
    assert house.kept()[0] == 0
    house.end(number, DONE)
    [told] = house.inbox(SENDER)
    assert third_part(told).media_type == "text/rfc822-headers"
    assert "en-tête" not in mime.parse(told).children[0].decoded(told).decode()
    house.close()


def test_without_a_receipt_asked_nothing_is_kept(house: House) -> None:
    number = house.submit(sent())
    assert house.kept()[0] == 0
    house.end(number, CLOSED)
    assert house.inbox(SENDER) == [] and house.inbox(ERRORS) == []


def test_the_mailbox_of_errors_hears_of_what_nobody_asked_about(tmp_path: Path) -> None:
    house = House(tmp_path, error_mailbox=ERRORS)
    raw = sent()
    first = house.submit(raw)
    house.end(first, CLOSED)
    house.teller(replace_job(house, first), CLOSED, AT)
    [told] = house.inbox(ERRORS)
    root = mime.parse(told)
    assert root.media_type == "multipart/mixed" and third_part(told).body(told) == raw
    assert (root.get("Subject") or "").startswith("[KO Intégration système !][902] XDM/1.0/DDM")
    assert root.addresses("To") == [("", ERRORS)] and house.inbox(SENDER) == []
    # A success is no news there, and a receipt that was asked for goes to its author alone.
    second = house.submit(sent(text="other"))
    house.end(second, DONE)
    third = house.submit(sent(ASKED, text="third"))
    house.end(third, CLOSED)
    assert len(house.inbox(ERRORS)) == 1 and len(house.inbox(SENDER)) == 1 and house.kept()[0] == 0
    house.close()


def replace_job(house: House, number: int) -> DepositJob:
    """A deposit as its worker had it, to tell of it a second time."""
    deposit = house.store.deposit(number)
    assert deposit is not None
    return DepositJob(deposit, b"", house.store.deposit_context(number), AT)


def test_an_error_mailbox_elsewhere_is_not_sent_the_message(tmp_path: Path) -> None:
    house = House(tmp_path, error_mailbox="erreurs@ailleurs.mssante.fr")
    house.end(house.submit(sent()), CLOSED)
    [row] = house.store.lease_outgoing("t", AT, timedelta(seconds=1), 10)
    told = house.store.read_blob(row.blob)
    assert third_part(told).media_type == "text/rfc822-headers" and b"ClinicalDocument" not in told
    house.close()


def test_what_was_held_is_told_with_its_message_which_is_let_go(house: House) -> None:
    bad = make_cda(PATIENT).replace(b'confidentialityCode code="N"', b'confidentialityCode code="V"')
    raw = mime.prepend_fields(message(xml(bad)), [ASKED, ("Message-ID", "<m@x.fr>")])
    house.submit(raw)
    assert house.kept()[0] == 1
    for _ in range(2):
        house.teller.held()
    [told] = house.inbox(SENDER)
    assert third_part(told).body(told) == raw and house.kept()[0] == 0


def test_given_up_before_it_was_told(house: House) -> None:
    number = house.submit(sent(ASKED))
    house.store.direct_deposit(number, DepositState.ABANDONED, "not wanted", AT, who="op")
    assert house.kept() == (0, 1)


def test_its_second_end_says_that_the_message_was_given_back(house: House) -> None:
    number = house.submit(sent(ASKED))
    house.end(number, CLOSED)
    house.store.direct_deposit(number, DepositState.READY, "again", AT, who="op")
    house.end(number, DONE)
    first, second = house.inbox(SENDER)
    assert third_part(first).media_type == "message/rfc822"
    assert third_part(second).media_type == "text/rfc822-headers"
    assert "une fois déjà" in mime.parse(second).children[0].decoded(second).decode()


def test_an_erased_mailbox_takes_what_was_kept_for_it(house: House) -> None:
    author = "gp@ailleurs.mssante.fr"
    house.submit(sent(ASKED))
    clear = sent(("Disposition-Notification-To", author), author=author, text="other")
    house.receive(clear, clear, mail_from=author)
    assert house.kept()[0] == 2
    house.store.erase_account(SENDER, AT)
    assert house.kept()[0] == 1
    house.store.erase_account(BOX, AT)
    assert house.kept() == (0, 2)


def test_several_documents_share_one_kept_message(house: House) -> None:
    raw = mime.prepend_fields(
        message(xml(make_cda(PATIENT, text="a")), xml(make_cda(PATIENT, text="b"), "b.xml")),
        [ASKED, ("Message-ID", "<m@x.fr>")],
    )
    last = house.submit(raw)
    assert house.kept() == (2, 3)
    house.end(last - 1, DONE)
    assert house.kept()[0] == 1 and house.store.deposit_original(last) == raw
    house.end(last, DONE)
    assert house.kept() == (0, 2)
    house.store.sweep(AT + timedelta(days=36500))
    assert house.kept() == (0, 2)


@pytest.mark.parametrize(
    ("raw", "fits"),
    [
        (b"A: b\r\n\r\nc\r\n", True),
        ("A: b\r\n\r\né\r\n".encode(), True),
        (b"A: b\r\n\r\n" + b"x" * 998 + b"\r\n", True),
        (b"A: b\r\n\r\n" + b"x" * 999 + b"\r\n", False),
        (b"A: b\r\n\r\nc\n", False),
        (b"A: b\r\n\r\n\0\r\n", False),
        ("A: é\r\n\r\nc\r\n".encode(), False),
    ],
)
def test_what_can_be_a_part_as_it_is(raw: bytes, fits: bool) -> None:
    assert carriable(raw) is fits
