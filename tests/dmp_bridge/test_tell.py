"""Who is told what, once; reminders; the register of oppositions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import mime
from dmp_bridge import Outcome
from dmp_bridge.notices import given_back
from dmp_bridge.oppositions import ImportRefused, Told, read_oppositions
from dmp_bridge.register import Register
from dmp_bridge.tell import Feed, Teller, Voice
from ihe.hl7v2 import parse
from ihe.ins import INS_TEST
from ihe.samples import synthetic_patient
from mailstore.model import (
    Acceptance,
    DepositJob,
    DepositState,
    Direction,
    MailboxKind,
    NewReceipt,
    ReceiptKind,
    ReceiptState,
)
from mailstore.store import Store
from tests.dmp_bridge.bridge import MASTER_KEY, accept, context, message, now, open_mailstore, xml
from tests.dossier.house import make_cda
from tests.ihe.support import samples

PATIENT = synthetic_patient(1)
SENDER = "secretariat@hopital.mssante.fr"
AT = datetime(2026, 3, 1, 10, tzinfo=UTC)
DONE = Outcome(DepositState.DEPOSITED, "Success", "déposé / deposited")
CLOSED = Outcome(DepositState.NEEDS_ATTENTION, "DMPClosed", "DMPClosed: DMP fermé / record closed")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store with the sender's mailbox."""
    opened = open_mailstore(tmp_path)
    opened.add_account(SENDER, MailboxKind.ORG, display_name="Secrétariat", national_id="1990000011", at=now())
    yield opened
    opened.close()


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """A register."""
    opened = Register(f"sqlite:///{tmp_path / 'bridge.db'}", MASTER_KEY)
    yield opened
    opened.close()


def job(store: Store, **changes: object) -> DepositJob:
    """A leased deposit."""
    accept(
        store,
        message(xml(make_cda(PATIENT, text=str(changes)))),
        context(notify=SENDER, message_id="<m@x.fr>", **changes),
    )
    deposit_id = max(store.due_deposits(now(), 10))
    [leased] = store.lease_deposits({deposit_id: "1.2"}, "test", now(), timedelta(minutes=1))
    return store.open_deposit(leased)


def inbox(store: Store) -> list[bytes]:
    """The sender's messages."""
    account = store.find_account(SENDER)
    assert account is not None
    view = store.view(store.folder(account.id, "INBOX").id)
    return [store.read_blob(blob) for blob in view.blobs]


@pytest.mark.parametrize(
    ("voice", "outcome", "told"),
    [
        (Voice.FAILURES, DONE, 0),
        (Voice.FAILURES, CLOSED, 1),
        (Voice.ALWAYS, DONE, 1),
        (Voice.NEVER, CLOSED, 0),
    ],
)
def test_what_is_told_is_told_once(store: Store, register: Register, voice: Voice, outcome: Outcome, told: int) -> None:
    teller, leased = Teller(store, register, hostname="mss.test", voice=voice), job(store)
    for at in (AT, AT + timedelta(minutes=5)):
        teller(leased, outcome, at)
    messages = inbox(store)
    assert len(messages) == told
    for raw in messages:
        assert PATIENT.ins.encode() not in raw and PATIENT.birth_name.encode() not in raw
        assert leased.deposit.unique_id.encode() in raw


@pytest.mark.parametrize(("outcome", "fields"), [(DONE, ["processed"]), (CLOSED, ["processed/error", "Error: 902^"])])
def test_a_receipt_that_was_asked_for_is_always_sent(
    store: Store, register: Register, outcome: Outcome, fields: list[str]
) -> None:
    teller = Teller(store, register, hostname="mss.test", voice=Voice.NEVER)
    sent = mime.prepend_fields(
        message(xml(make_cda(PATIENT))), [("Subject", "XDM/1.0/DDM+CR médical"), ("X-MSS-INS", PATIENT.ins)]
    )
    kept = given_back(mime.parse(sent))
    teller(job(store, wants_mdn=True, addressed="dmp@hopital.mssante.fr", original=kept), outcome, AT)
    [raw] = inbox(store)
    root = mime.parse(raw)
    assert [part.media_type for part in root.children] == [
        "text/plain",
        "message/disposition-notification",
        "text/rfc822-headers",
    ]
    original = mime.parse(root.children[2].body(raw))
    assert original.get("Subject") == "XDM/1.0/DDM+CR médical" and original.get("X-MSS-INS") is None
    assert (root.get("Subject") or "").endswith("XDM/1.0/DDM+CR médical")
    assert root.media_type == "multipart/report"
    status = root.children[1].body(raw).decode()
    assert "Original-Message-ID: <m@x.fr>" in status and "Final-Recipient: rfc822; dmp@hopital.mssante.fr" in status
    assert all(word in status for word in fields)
    if outcome is CLOSED:
        assert (root.get("Subject") or "").startswith("[KO Int")


def test_a_sender_elsewhere_is_told_through_the_queue(store: Store, register: Register) -> None:
    leased = job(store)
    elsewhere = DepositJob(
        leased.deposit, leased.content, context(notify="gp@ailleurs.mssante.fr").to_json(), leased.lease_until
    )
    Teller(store, register, hostname="mss.test")(elsewhere, CLOSED, AT)
    rows = store.lease_outgoing("t", now(), timedelta(seconds=1), 10)
    assert [row.recipient for row in rows] == ["gp@ailleurs.mssante.fr"]


def test_what_was_held_at_acceptance_is_told_once_even_after_a_restart(store: Store, register: Register) -> None:
    bad = make_cda(PATIENT).replace(b'confidentialityCode code="N"', b'confidentialityCode code="V"')
    accept(store, message(xml(bad)), context(notify=SENDER))
    for _ in range(2):
        Teller(store, register, hostname="mss.test").held()
    [raw] = inbox(store)
    assert "906" in (mime.parse(raw).get("Subject") or "") or b"906" in raw


def test_hidden_documents_have_their_reminders_after_14_and_30_days(store: Store, register: Register) -> None:
    teller = Teller(store, register, hostname="mss.test")
    leased = job(store, visibility=("INVISIBLE_PATIENT",))
    teller(leased, DONE, AT)
    teller(leased, DONE, AT)
    assert [one.days for one, _ in register.waiting_reminders()] == [14, 30]
    sent = [teller.remind(AT + timedelta(days=days)) for days in (13, 14, 14, 29, 30, 31)]
    assert sent == [0, 1, 0, 0, 1, 0]
    assert len(inbox(store)) == 2


def test_an_announced_document_has_no_reminder_left(store: Store, register: Register) -> None:
    leased = job(store, visibility=("INVISIBLE_PATIENT",))
    Teller(store, register, hostname="mss.test")(leased, DONE, AT)
    assert register.announced(leased.deposit.unique_id, AT) == 2
    assert register.due_reminders(AT + timedelta(days=60)) == []


def test_the_newest_statement_counts_and_nobody_is_named_on_disk(register: Register, tmp_path: Path) -> None:
    for days, opposed in ((0, True), (2, False), (1, True)):
        register.tell(Told(PATIENT.ins, INS_TEST, opposed, AT + timedelta(days=days)), "test")
    known = register.state(PATIENT.ins, INS_TEST)
    assert known is not None and not known.opposed and register.counts() == (0, 1)
    register.close()
    for path in tmp_path.glob("bridge.db*"):
        assert PATIENT.ins.encode() not in path.read_bytes()


def test_pam_samples_tell_opposition_and_its_end() -> None:
    folder = samples("ansforge") / "hl7v2"
    [yes] = read_oppositions((folder / "NonConsentementConsultation_OppositionAlimentation.er7").read_bytes(), at=AT)
    [no] = read_oppositions((folder / "ConsentementConsultation_NonOppositionAlimentation.er7").read_bytes(), at=AT)
    assert yes.opposed and not no.opposed and yes.ins == no.ins == "279035121518989" and yes.at > no.at


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a;b\n", "ligne 1"),
        (f"ins;oid;opposition\n123;{INS_TEST};IO\n", "2: ins"),
        (f"ins;oid;opposition\n{PATIENT.ins};1.2;IO\n", "2: oid"),
        (f"ins;oid;opposition\n{PATIENT.ins};{INS_TEST};perhaps\n", "2: opposition"),
        (f"ins;oid;opposition;date\n{PATIENT.ins};{INS_TEST};IO;2026-01-01\n", "2: date"),
    ],
)
def test_a_bad_import_names_its_line_never_a_value(text: str, place: str) -> None:
    with pytest.raises(ImportRefused) as caught:
        list(read_oppositions(text.encode(), at=AT))
    assert place in str(caught.value) and PATIENT.ins not in str(caught.value)


def test_a_csv_is_read() -> None:
    text = f"ins;oid;opposition;date\n{PATIENT.ins};{INS_TEST};IO;2026-01-01T10:00:00+01:00\n"
    assert list(read_oppositions(text.encode(), at=AT)) == [
        Told(PATIENT.ins, INS_TEST, True, datetime(2026, 1, 1, 9, tzinfo=UTC))
    ]


def test_receipts_are_passed_on_once_each_and_looked_for_less_and_less_often(store: Store, register: Register) -> None:
    feed = Feed("ris", ("PFI-Y", "O"), ("RIS-Y", "O"))
    teller = Teller(store, register, hostname="mss.test", feeds={"ris": feed})
    deadline = AT + timedelta(days=7)
    wanted = [NewReceipt(who, kind, deadline) for who in ("a@x.fr", "b@x.fr") for kind in ReceiptKind]
    store.accept(
        Acceptance(
            Direction.SUBMISSION, "hl7", SENDER, ("a@x.fr", "b@x.fr"), "<hl7.1@h>", b"x", receipts=tuple(wanted)
        ),
        AT,
    )
    for _ in range(2):
        register.await_receipts("<hl7.1@h>", "ris", "015", AT)
    assert teller.receipts(AT) == 1 and register.due_acknowledgements(AT) == []
    assert teller.receipts(AT) == 0
    store.answer_receipt("<hl7.1@h>", "a@x.fr", ReceiptKind.DELIVERY, ReceiptState.POSITIVE, "delivered 2.0.0", AT)
    store.answer_receipt("<hl7.1@h>", "b@x.fr", ReceiptKind.DELIVERY, ReceiptState.NEGATIVE, "failed 5.1.1", AT)
    later = AT + timedelta(hours=1)
    assert [teller.receipts(later), teller.receipts(later)] == [1, 0]
    store.answer_receipt("<hl7.1@h>", "a@x.fr", ReceiptKind.READING, ReceiptState.POSITIVE, "processed", later)
    store.answer_receipt("<hl7.1@h>", "b@x.fr", ReceiptKind.READING, ReceiptState.POSITIVE, "displayed", later)
    assert [teller.receipts(later + timedelta(minutes=minutes)) for minutes in (5, 7, 60, 600)] == [0, 1, 0, 0]
    sent = [parse(one.content) for one in register.due_acknowledgements(later + timedelta(days=1))]
    lines = [(one.kind[1], list(one.all("OBX"))) for one in sent]
    assert [(event, told[0].get(5), told[1].get(5, 4)) for event, told in lines] == [
        ("Z02", "Y", "a@x.fr"),
        ("Z02", "N", "b@x.fr"),
        ("Z03", "Y", "a@x.fr"),
        ("Z03", "Y", "b@x.fr"),
    ]
    refused = sent[1].first("ERR")
    assert refused is not None and refused.get(5) == "550"


def test_the_wait_for_a_message_that_was_never_accepted_ends(store: Store, register: Register) -> None:
    teller = Teller(store, register, hostname="mss.test", feeds={"ris": Feed("ris", ("P", "O"), ("R", "O"))})
    register.await_receipts("<hl7.2@h>", "ris", "016", AT)
    register.await_receipts("<hl7.3@h>", "gone", "017", AT)
    assert teller.receipts(AT) == 2
    assert [teller.receipts(AT + timedelta(days=days)) for days in (1, 2, 3)] == [1, 1, 0]
