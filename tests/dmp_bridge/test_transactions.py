"""Every transaction the bridge sends, for real: existence, replacement, deletion, over mutual TLS to the embedded record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmp_bridge import Depositor, DmpOutlet, Outcome
from dmp_bridge.context import DELETE
from dossier import Caller, PatientState, Status
from ihe.cda import read_cda
from ihe.datatypes import patient_id
from ihe.samples import synthetic_patient
from mailstore.model import Acceptance, DepositState, Direction, NewDeposit
from mailstore.store import Store
from tests.dmp_bridge.bridge import context, now, open_mailstore, outlet
from tests.dossier.house import House, Trust, house, make_cda, sha1_hex

PATIENT = synthetic_patient(1)
CX = patient_id(PATIENT.ins, PATIENT.ins_oid)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store."""
    opened = open_mailstore(tmp_path)
    yield opened
    opened.close()


def way(record: House, *, timeout: float = 10.0, trust: Trust | None = None) -> DmpOutlet:
    """The outlet to the running record, existence test included."""
    who = trust or record.trust
    return outlet(record.repository, who.peer, who.signer, who.anchors, timeout=timeout, existence=True)


def put(store: Store, content: bytes, *, action: str = "", **changes: object) -> int:
    """A deposit row made by hand; its id."""
    name = read_cda(content).unique_id
    new = NewDeposit(
        f"delete:{name}" if action == DELETE else name,
        sha1_hex(content),
        content,
        context(action=action, **changes).to_json(),
    )
    store.accept(
        Acceptance(
            Direction.SUBMISSION,
            "t",
            "a@b.fr",
            ("c@d.fr",),
            f"<{action}{name}@b.fr>",
            content + action.encode(),
            deposits=(new,),
        ),
        now(),
    )
    return max(store.due_deposits(now(), 100))


def run(store: Store, record: House, deposit_id: int, **options: float) -> Outcome:
    """One attempt."""
    outcome = Depositor(store, way(record, **options), pause=lambda _: timedelta(0)).run(deposit_id)  # type: ignore[arg-type]
    assert outcome is not None
    return outcome


def test_a_closed_record_gets_nothing_and_says_so(record: House, store: Store) -> None:
    record.store.set_patient_state(CX, PatientState.CLOSED, Caller(person="test"))
    outcome = run(store, record, put(store, make_cda(PATIENT)))
    assert (outcome.state, outcome.code) == (DepositState.NEEDS_ATTENTION, "DMPClosed")
    assert [access.action for access in record.store.accesses(CX)] == ["TD0.2", "close"]
    record.store.set_patient_state(CX, PatientState.ACTIVE, Caller(person="test"))
    assert run(store, record, put(store, make_cda(PATIENT, text="again"))).state is DepositState.DEPOSITED
    assert {access.action for access in record.store.accesses(CX)} == {"TD0.2", "ITI-41", "open", "close"}


def test_without_automatic_creation_an_unknown_patient_has_no_record(
    trust: Trust, tmp_path: Path, store: Store
) -> None:
    with house(trust, tmp_path, automatic_creation=False) as record:
        outcome = run(store, record, put(store, make_cda(PATIENT)))
        assert (outcome.state, outcome.code) == (DepositState.NEEDS_ATTENTION, "no-record")
        direct = outlet(record.repository, trust.peer, trust.signer, trust.anchors, existence=False)
        refused = Depositor(store, direct).run(put(store, make_cda(PATIENT, text="other")))
        assert refused is not None and refused.code == "XDSUnknownPatientId"


def test_a_record_closed_after_a_favourable_test_is_asked_again(record: House, store: Store) -> None:
    depositor = Depositor(store, way(record))
    first = depositor.run(put(store, make_cda(PATIENT)))
    assert first is not None and first.state is DepositState.DEPOSITED
    record.store.set_patient_state(CX, PatientState.CLOSED, Caller(person="test"))
    codes = []
    for text in ("second", "third"):
        outcome = depositor.run(put(store, make_cda(PATIENT, text=text)))
        assert outcome is not None
        codes.append(outcome.code)
    assert codes == ["DMPClosed", "DMPClosed"]
    assert [one.action for one in record.store.accesses(CX)].count("TD0.2") == 2


def test_a_new_version_replaces_the_old_one(record: House, store: Store) -> None:
    first = make_cda(PATIENT)
    header = read_cda(first)
    assert header.set_id is not None
    second = make_cda(PATIENT, text="v2", set_id=header.set_id.root, version=2, replaces=header.unique_id)
    assert run(store, record, put(store, first)).state is DepositState.DEPOSITED
    assert run(store, record, put(store, second)).state is DepositState.DEPOSITED
    states = {entry.unique_id: entry.status for entry in record.store.show(CX)}
    assert states == {header.unique_id: Status.DEPRECATED, read_cda(second).unique_id: Status.APPROVED}
    third = make_cda(PATIENT, text="v2 bis", set_id=header.set_id.root, version=2, replaces=header.unique_id)
    refused = run(store, record, put(store, third))
    assert (refused.state, refused.code) == (DepositState.NEEDS_ATTENTION, "XDSRegistryDeprecatedDocumentError")


def test_a_replacement_of_an_unknown_document_is_held(record: House, store: Store) -> None:
    outcome = run(store, record, put(store, make_cda(PATIENT, version=2, replaces="1.2.250.1.999.1.1.20001.3.404")))
    assert (outcome.state, outcome.code) == (DepositState.NEEDS_ATTENTION, "replacement-unknown")


def test_deletion_of_the_structures_own_document_only(record: House, store: Store, trust: Trust) -> None:
    content = make_cda(PATIENT)
    assert run(store, record, put(store, content)).state is DepositState.DEPOSITED
    stranger = outlet(record.repository, trust.other_peer, trust.other_signer, trust.anchors, existence=True)
    theirs = put(store, content, action=DELETE, structure_id="1990000029")
    refused = Depositor(store, stranger).run(theirs)
    assert refused is not None and refused.code == "XDSMetadataUpdateError"
    assert [entry.status for entry in record.store.show(CX)] == [Status.APPROVED]


def test_deletion_then_nothing_left(record: House, store: Store) -> None:
    content = make_cda(PATIENT)
    assert run(store, record, put(store, content)).state is DepositState.DEPOSITED
    outcome = run(store, record, put(store, content, action=DELETE))
    assert (outcome.state, outcome.code) == (DepositState.DEPOSITED, "Deleted")
    assert [entry.status for entry in record.store.show(CX)] == [Status.DELETED]
    assert record.store.lookup(CX, [read_cda(content).unique_id]) == ()


def test_deletion_of_an_unknown_document_needs_attention(record: House, store: Store) -> None:
    outcome = run(store, record, put(store, make_cda(PATIENT), action=DELETE))
    assert (outcome.state, outcome.code) == (DepositState.NEEDS_ATTENTION, "delete-unknown")


def test_visibility_codes_reach_the_record(record: House, store: Store) -> None:
    codes = ("INVISIBLE_PATIENT", "MASQUE_PS")
    assert run(store, record, put(store, make_cda(PATIENT), visibility=codes)).state is DepositState.DEPOSITED
    assert [entry.visibility for entry in record.store.show(CX)] == [codes]


class Swallow:
    """Lets the record work, and swallows the n-th answers (the connection is cut instead)."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.count = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Wrap the record's application."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            self.count += 1
            mine = self.count

            async def late(event: Message) -> None:
                if mine in self.numbers:
                    await asyncio.sleep(0)
                    raise RuntimeError("the line is cut")
                await send(event)

            await app(scope, receive, late)

        return wrapped


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_any_answer_may_be_lost_in_a_replacement(trust: Trust, tmp_path: Path, store: Store, lost: int) -> None:
    """Exchanges: 1 existence and 2 ITI-41 of the first version; then 3 look-up, 4 ITI-41 of the second."""
    first = make_cda(PATIENT)
    second = make_cda(PATIENT, text="v2", version=2, replaces=read_cda(first).unique_id)
    with house(trust, tmp_path, wrap=Swallow(lost)) as record:
        depositor = Depositor(store, way(record), pause=lambda _: timedelta(0))
        outcomes = []
        for content in (first, second):
            row = put(store, content)
            while True:
                outcome = depositor.run(row)
                assert outcome is not None
                outcomes.append(outcome.state)
                if outcome.state is not DepositState.RETRY:
                    break
        assert outcomes.count(DepositState.RETRY) == 1
        assert outcomes.count(DepositState.DEPOSITED) == 2
        assert [entry.status for entry in record.store.show(CX)] == [Status.DEPRECATED, Status.APPROVED]


def test_a_lost_answer_to_a_deletion_is_found_done(trust: Trust, tmp_path: Path, store: Store) -> None:
    content = make_cda(PATIENT)
    with house(trust, tmp_path, wrap=Swallow(4)) as record:
        depositor = Depositor(store, way(record), pause=lambda _: timedelta(0))
        depositor.run(put(store, content))
        row = put(store, content, action=DELETE)
        states = []
        for _ in range(2):
            outcome = depositor.run(row)
            assert outcome is not None
            states.append(outcome.state)
        assert states == [DepositState.RETRY, DepositState.DEPOSITED]
        assert [entry.status for entry in record.store.show(CX)] == [Status.DELETED]
