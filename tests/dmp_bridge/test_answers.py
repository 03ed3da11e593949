"""What each answer of the record means, the pauses between attempts, the broker's hand-over, the dispatcher's memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dmp_bridge import DepositDispatcher, interpret, make_app, pause_after
from ihe import soap
from ihe.ebrim import RegistryError, RegistryResponse, build_registry_response
from mailstore.model import DepositState

TYPE = "application/soap+xml; charset=UTF-8"


def answer(*codes: str, success: bool = False) -> bytes:
    """A registry response in its envelope."""
    response = RegistryResponse(success, tuple(RegistryError(code, "PATIENT DUPONT") for code in codes))
    return soap.build_envelope(build_registry_response(response), action="x", message_id="urn:uuid:1")


def fault(code: soap.FaultCode, subcode: str = "") -> bytes:
    """A fault envelope."""
    return soap.build_fault(soap.Fault(code, "PATIENT DUPONT", subcode), message_id="urn:uuid:1")


DONE, AGAIN, HUMAN = DepositState.DEPOSITED, DepositState.RETRY, DepositState.NEEDS_ATTENTION
TABLE = [
    (200, answer(success=True), DONE),
    (200, answer("XDSDuplicateUniqueIdInRegistry"), DONE),
    (200, answer("XDSNonIdenticalHash"), HUMAN),
    (200, answer("XDSDuplicateUniqueIdInRegistry", "XDSNonIdenticalHash"), HUMAN),
    (200, answer("XDSRepositoryBusy"), AGAIN),
    (200, answer("XDSRegistryNotAvailable", "XDSRegistryOutOfResources"), AGAIN),
    (200, answer("XDSRepositoryBusy", "XDSUnknownPatientId"), HUMAN),
    (200, answer("XDSUnknownPatientId"), HUMAN),
    (200, answer("SomethingNew"), HUMAN),
    (200, answer(), HUMAN),
    (400, fault(soap.FaultCode.SENDER, "DMPInvalidCertificate"), HUMAN),
    (500, fault(soap.FaultCode.RECEIVER), AGAIN),
    (500, fault(soap.FaultCode.SENDER), HUMAN),
    (502, b"<html>Bad gateway</html>", AGAIN),
    (429, b"", AGAIN),
    (404, b"", HUMAN),
    (302, b"", HUMAN),
    (200, b"<html/>", HUMAN),
    (200, b"", HUMAN),
]


@pytest.mark.parametrize(("status", "body", "state"), TABLE)
def test_the_table(status: int, body: bytes, state: DepositState) -> None:
    outcome = interpret(status, TYPE, body)
    assert outcome.state is state
    assert "DUPONT" not in outcome.reason


def test_a_remote_code_cannot_smuggle_text() -> None:
    outcome = interpret(200, TYPE, answer("Bad code\nDUPONT Jean <x>" + "a" * 500))
    assert "\n" not in outcome.reason and " <" not in outcome.reason and len(outcome.code) <= 64


def test_pauses_grow_and_are_capped() -> None:
    assert timedelta(seconds=4) < pause_after(1) < timedelta(seconds=6)
    assert pause_after(3) > pause_after(1)
    assert timedelta(minutes=50) < pause_after(10_000) < timedelta(minutes=70)


def test_broker_drops_what_it_cannot_read_and_goes_on(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    queue = tmp_path / "queue"
    (queue / "0_broken.deposits.msg").write_bytes(b"")
    (queue / ".9_half.deposits.msg.partial").write_bytes(b"{")
    with app.connection_for_write() as connection:
        simple = connection.SimpleQueue("deposits")
        simple.put({"id": 7})
        assert simple.get(timeout=3).payload == {"id": 7}
        simple.close()


class Rows:
    """Rows that are due, as the store would list them."""

    def __init__(self) -> None:
        self.due: list[int] = [1, 2]

    def due_deposits(self, now: datetime, limit: int) -> Sequence[int]:
        """The due ids."""
        return self.due[:limit]


def test_dispatcher_enqueues_once_per_lease_and_at_once_after_a_settled_attempt(tmp_path: Path) -> None:
    rows, at = Rows(), [datetime(2026, 1, 1, tzinfo=UTC)]
    dispatcher = DepositDispatcher(
        make_app(tmp_path),
        rows,
        lease=timedelta(seconds=30),
        clock=lambda: at[0],
    )
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [2, 0]
    rows.due = [2]
    assert dispatcher.dispatch() == 0
    rows.due = [1, 2]
    assert dispatcher.dispatch() == 1
    at[0] += timedelta(seconds=31)
    assert dispatcher.dispatch() == 2
    assert len(list((tmp_path / "queue").glob("*.msg"))) == 5
    assert all(b"ClinicalDocument" not in path.read_bytes() for path in (tmp_path / "queue").iterdir())


def test_without_a_worker_the_broker_does_not_fill_up(tmp_path: Path) -> None:
    rows, at = Rows(), [datetime(2026, 1, 1, tzinfo=UTC)]
    rows.due = list(range(10))
    dispatcher = DepositDispatcher(make_app(tmp_path), rows, lease=timedelta(seconds=30), limit=4, clock=lambda: at[0])
    for _ in range(10):
        dispatcher.dispatch()
        at[0] += timedelta(seconds=31)
    queue = tmp_path / "queue"
    assert len(list(queue.iterdir())) == 4
    for file in list(queue.iterdir())[:3]:
        file.unlink()
    assert dispatcher.dispatch() == 3
