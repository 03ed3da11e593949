"""The hospital's feed for real: HL7 v2 over MLLP and mutual TLS, to the message, the deposit, the record, and back by a ZAM."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import mime
from dmp_bridge import DepositContext, Depositor, Desk, find_documents
from dmp_bridge.gateway import FeedSettings, Gateway, HandIn, HandInLater, key_of
from dmp_bridge.mllp import END, START, MllpServer, send
from dmp_bridge.register import Register
from dmp_bridge.tell import Feed, Teller
from ihe import hl7v2
from ihe.cda import read_cda
from ihe.samples import synthetic_patient
from mailstore.model import Acceptance, DepositState, Direction, MailboxKind, OutgoingCopy
from mailstore.store import Store
from tests.dmp_bridge.bridge import MASTER_KEY, SOURCE_ID, context, now, open_mailstore, outlet
from tests.dossier.house import House, Trust, make_cda
from tests.ihe.support import samples
from tests.ihe.test_hl7 import mdm
from trustspace import client_context, server_context

PATIENT = synthetic_patient(1)
MAILBOX = "passerelle@hopital.mssante.fr"
ALL = (
    "MASQUE_PS=N INVISIBLE_PATIENT=N INVISIBLE_REP_LEGAUX=N CONNEXION_SECRETE=N MODIF_CONF_CODE=N "
    "DESTDMP=Y DESTMSSANTEPS=Y ACK_RECEPTION=Y"
)


@dataclass
class StoreSide:
    """The mail side over a real store, without protection (which is the proxy's business)."""

    store: Store
    down: bool = False

    def context(self, mailbox: str) -> DepositContext | None:
        """The hospital."""
        return context(sender=mailbox) if mailbox == MAILBOX else None

    def hand_in(self, what: HandIn, at: datetime) -> str:
        """Accept."""
        if self.down:
            raise HandInLater("down")
        copies = (OutgoingCopy(what.recipients, what.content),) if what.recipients else ()
        acceptance = Acceptance(
            Direction.SUBMISSION,
            f"hl7:{what.mailbox}",
            what.mailbox,
            what.recipients,
            what.message_id,
            what.received,
            outgoing=copies,
            deposits=what.deposits,
        )
        return self.store.accept(acceptance, at).submission_id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store with the feed's mailbox."""
    opened = open_mailstore(tmp_path)
    opened.add_account(MAILBOX, MailboxKind.APP, display_name="Passerelle", national_id="1990000011", at=now())
    yield opened
    opened.close()


def hand_over(content: bytes, *, recipient: str = "medecin@cabinet.mssante.fr", **options: str) -> bytes:
    """An MDM for the patient of the tests."""
    data = mdm(content, **{"flags": ALL, **options}).decode()
    data = data.replace("279035121518989", PATIENT.ins)
    data += f"PRT||UC||RCT^^participation||||||||||^^X.400^{recipient}\r".replace("||||||||||^^", "|||||||||||^^")
    return data.encode()


@contextmanager
def listening(
    store: Store, *, trust: Trust | None = None, side: StoreSide | None = None, **feed: object
) -> Iterator[int]:
    """A gateway on a free port; gives the port."""
    settings = FeedSettings("ris", ("RIS-Y", "Organisation-Y"), MAILBOX, **feed)  # type: ignore[arg-type]
    gateway = Gateway(
        side or StoreSide(store), [settings], desk=Desk(), source_id=SOURCE_ID, hostname="mss.test", clock=now
    )
    tls = None
    if trust is not None:
        tls = server_context(trust.server.chain, trust.server.key, client_anchors=trust.anchors, client="required")
    loop = asyncio.new_event_loop()
    server = MllpServer(gateway, host="127.0.0.1", port=0, tls=tls, max_message=2_000_000, message_seconds=1.0)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
    try:
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(15)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def queued(store: Store) -> list[tuple[str, bytes]]:
    """Recipients and contents of what waits to leave."""
    rows = store.lease_outgoing("test", now(), timedelta(seconds=1), 100)
    return [(row.recipient, store.read_blob(row.blob)) for row in rows]


def test_one_hand_over_is_a_message_a_deposit_and_a_business_acknowledgement(
    record: House, store: Store, tmp_path: Path
) -> None:
    content = make_cda(PATIENT, text="%PDF-1.4 x")
    data = hand_over(content)
    key = key_of(record.trust.peer.certificate.public_bytes(Encoding.DER))
    with listening(store, trust=record.trust, key=key) as port:
        tls = client_context(record.trust.peer.chain, record.trust.peer.key, record.trust.anchors, check_hostname=True)
        assert send("127.0.0.1", port, data, tls=tls, server_name="localhost") == ("AA", "015")
        # The answer was lost, the RIS says it again: nothing is doubled.
        assert send("127.0.0.1", port, data, tls=tls, server_name="localhost") == ("AA", "015")
    [(recipient, raw)] = queued(store)
    assert recipient == "medecin@cabinet.mssante.fr"
    [found] = find_documents(raw).documents
    assert found.content == content and len(found.copies) == 2
    part = mime.parse(raw)
    assert (part.get("Subject") or "").startswith("XDM/1.0/DDM+") and part.get("X-MSS-CODECDA") == "34112-3"
    register = Register(f"sqlite:///{tmp_path / 'bridge.db'}", MASTER_KEY)
    feeds = {"ris": Feed("ris", ("PFI-Y", "Organisation-Y"), ("RIS-Y", "Organisation-Y"))}
    teller = Teller(store, register, hostname="mss.test", feeds=feeds)
    way = outlet(record.repository, record.trust.peer, record.trust.signer, record.trust.anchors, existence=True)
    [deposit_id] = store.due_deposits(now(), 10)
    outcome = Depositor(store, way, tell=teller).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.DEPOSITED, outcome
    assert record.store.read(read_cda(content).unique_id) == content
    [due] = register.due_acknowledgements(now())
    message = hl7v2.parse(due.content)
    assert message.kind == ("ZAM", "Z01")
    answered = message.first("OBX")
    assert answered is not None and (answered.get(4), answered.get(5)) == ("015", "Y")


def test_another_certificate_or_application_is_nobody(record: House, store: Store) -> None:
    with listening(store, trust=record.trust, key="0" * 64) as port:
        tls = client_context(record.trust.peer.chain, record.trust.peer.key, record.trust.anchors, check_hostname=True)
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT)), tls=tls, server_name="localhost")[0] == "AE"
    with listening(store) as port:
        other = hand_over(make_cda(PATIENT)).replace(b"|RIS-Y|", b"|SIL-Z|")
        assert send("127.0.0.1", port, other)[0] == "AE"
    assert store.deposits() == []


def test_the_official_sample_whose_payload_is_no_cda_is_refused_cleanly(store: Store) -> None:
    data = (samples("ansforge") / "hl7v2" / "MDM_T02_v2.1_CR_Radio_INIT_N1.er7").read_bytes()
    with listening(store) as port:
        assert send("127.0.0.1", port, data) == ("AE", "015")
    assert store.deposits() == [] and queued(store) == []


def test_an_unqualified_identity_is_mailed_but_held_back_from_the_record(store: Store) -> None:
    with listening(store) as port:
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT), identity="PROV"))[0] == "AA"
    [deposit] = store.deposits()
    assert deposit.state is DepositState.NEEDS_ATTENTION and deposit.reason.startswith("identity")
    assert len(queued(store)) == 1


def test_deposit_only_makes_no_message(store: Store) -> None:
    with listening(store) as port:
        flags = "DESTDMP=Y DESTMSSANTEPS=N DESTMSSANTEPAT=N INVISIBLE_PATIENT=Y CONNEXION_SECRETE=Y"
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT), flags=flags))[0] == "AA"
    [deposit] = store.deposits()
    asked = DepositContext.from_json(store.deposit_context(deposit.id))
    assert deposit.state is DepositState.READY and queued(store) == []
    assert (asked.visibility, asked.secret_connection, asked.control_id) == (("INVISIBLE_PATIENT",), True, "015")


def test_a_patient_gets_a_message_of_their_own(store: Store) -> None:
    with listening(store) as port:
        flags = "DESTDMP=N DESTMSSANTEPS=Y DESTMSSANTEPAT=Y"
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT), flags=flags))[0] == "AA"
        hidden = "DESTDMP=N DESTMSSANTEPAT=Y INVISIBLE_PATIENT=Y"
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT, text="b"), flags=hidden))[0] == "AE"
    assert {recipient for recipient, _ in queued(store)} == {
        "medecin@cabinet.mssante.fr",
        f"{PATIENT.ins}@patient.mssante.fr",
    }


def test_a_strict_feed_refuses_what_the_matrix_does_not_print(store: Store) -> None:
    with listening(store, strict=True) as port:
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT)))[0] == "AE"


def test_a_store_that_is_down_is_a_circumstance(store: Store) -> None:
    with listening(store, side=StoreSide(store, down=True)) as port:
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT)))[0] == "AR"


@pytest.mark.parametrize("bad", [b"no start block" + END, START + b"x" * 2_100_000, START + b"MSH|^~\\&|never ends"])
def test_hostile_frames_end_the_connection_and_nothing_else(store: Store, bad: bytes) -> None:
    with listening(store) as port:
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            try:
                connection.sendall(bad)
                connection.settimeout(5)
                assert connection.recv(10) == b""
            except ConnectionError:
                pass
        assert time.monotonic() - begun < 5
        assert send("127.0.0.1", port, hand_over(make_cda(PATIENT)))[0] == "AA"


def test_garbage_in_a_frame_is_answered(store: Store) -> None:
    with listening(store) as port, socket.create_connection(("127.0.0.1", port), 5) as connection:
        for _ in range(2):
            connection.sendall(START + b"\xff\xfe garbage" + END)
            answer = connection.recv(65536)
            assert b"MSA|AE" in answer and answer.endswith(END)
