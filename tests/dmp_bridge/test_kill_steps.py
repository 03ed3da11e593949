"""`kill -9` at every step of a deposit, in the worker's process and in the record's: one document, told once.

The steps are named in `tests.dmp_bridge.victims`, whose processes kill themselves at exactly these points. Each document replaces
another one, so that a deposit goes through all of its exchanges.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import mime
from dmp_bridge import Depositor
from dmp_bridge.register import Register
from dmp_bridge.tell import Teller, Voice
from dossier import RecordView, Status
from ihe.cda import read_cda
from ihe.samples import synthetic_patient
from mailstore.model import DepositState, MailboxKind
from tests.dmp_bridge.bridge import MASTER_KEY, accept, context, message, now, open_mailstore, outlet, xml
from tests.dmp_bridge.victims import OWNER, RECORD_STEPS, VICTIM, WORKER_STEPS, write_trust
from tests.dossier.house import Trust, house, make_cda, open_store

pytestmark = pytest.mark.slow
SENDER = "secretariat@hopital.mssante.fr"


def next_line(victim: subprocess.Popen[str]) -> str:
    """The next line that a victim says for us, those of its log left out."""
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.startswith(VICTIM):
            return line.removeprefix(VICTIM).strip()
    raise AssertionError("the victim ended")


def test_the_worker_killed_at_each_step_deposits_and_tells_once(trust: Trust, tmp_path: Path) -> None:
    store = open_mailstore(tmp_path)
    store.add_account(SENDER, MailboxKind.ORG, display_name="Secrétariat", national_id="1990000011", at=now())
    register = Register(f"sqlite:///{tmp_path / 'bridge.db'}", MASTER_KEY)
    teller = Teller(store, register, hostname="mss.test", voice=Voice.ALWAYS)
    patients = [synthetic_patient(900 + number) for number in range(len(WORKER_STEPS))]
    with house(trust, tmp_path) as record:
        way = outlet(record.repository, trust.peer, trust.signer, trust.anchors, existence=True)
        first = {patient.ins: make_cda(patient, text="%PDF first") for patient in patients}
        newer = [
            make_cda(patient, text="%PDF second", replaces=read_cda(first[patient.ins]).unique_id, version=2)
            for patient in patients
        ]
        for content in first.values():
            accept(store, message(xml(content)))
        for number in store.due_deposits(now(), 100):
            Depositor(store, way).run(number)
        for content in newer:
            raw = message(xml(content))
            accept(store, raw, context(notify=SENDER, wants_mdn=True, returned="message"), original=raw)
        due = store.due_deposits(now(), 100)
        write_trust(trust, tmp_path)
        told = {"url": record.repository, "trust": str(trust.folder), "deposits": due}
        (tmp_path / "victim.json").write_text(json.dumps(told))
        command = [sys.executable, "-m", "tests.dmp_bridge.victims", "worker", str(tmp_path)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        killed = [line for line in said.splitlines() if line.startswith(VICTIM)]
        assert killed == [f"{VICTIM}{step}: {signal.SIGKILL.value}" for step in WORKER_STEPS], said
        # The worker starts again: what its former self held is due, and is carried out.
        store.release_leases(OWNER)
        again = Depositor(store, way, tell=teller, owner=OWNER)
        for number in store.due_deposits(now(), 100):
            again.run(number)
        states = {one.id: one.state for one in store.deposits()}
        assert [states[number] for number in due] == [DepositState.DEPOSITED] * len(due)
        view = RecordView(record.store, "test")
        for patient in patients:
            assert [entry.status for entry in view.show(patient.ins)] == [Status.DEPRECATED, Status.APPROVED]
        assert all(record.store.read(read_cda(content).unique_id) == content for content in newer)
    account = store.find_account(SENDER)
    assert account is not None
    notices = [store.read_blob(blob) for blob in store.view(store.folder(account.id, "INBOX").id).blobs]
    for content in newer:
        [news] = [notice for notice in notices if read_cda(content).unique_id.encode() in notice]
        assert xml(content) in mime.parse(news).children[2].body(news)
    # What the receipts gave back is gone with them.
    assert [store.deposit_original(number) for number in due] == [b""] * len(due)
    register.close()
    store.close()


def test_the_record_killed_at_each_step_keeps_once(trust: Trust, tmp_path: Path) -> None:
    write_trust(trust, tmp_path)
    store = open_mailstore(tmp_path)
    contents = [
        # More than a row holds, so that there are files too.
        make_cda(synthetic_patient(950 + number), text=f"%PDF {number} " * 10_000)
        for number in range(len(RECORD_STEPS))
    ]
    for content in contents:
        accept(store, message(xml(content)))
    command = [sys.executable, "-m", "tests.dmp_bridge.victims", "record", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as record:
        try:
            url = f"https://localhost:{next_line(record)}/si-dmp-server/v2/services/repository"
            way = outlet(url, trust.peer, trust.signer, trust.anchors, timeout=30.0)
            depositor = Depositor(store, way, pause=lambda _: timedelta(0))
            for step, number in zip(RECORD_STEPS, store.due_deposits(now(), 100), strict=True):
                lost = depositor.run(number)
                assert lost is not None and (lost.state, lost.code) == (DepositState.RETRY, "transport"), lost
                assert next_line(record) == f"{step}: {signal.SIGKILL.value}"
            for number in store.due_deposits(now(), 100):
                outcome = depositor.run(number)
                assert outcome is not None and outcome.state is DepositState.DEPOSITED, outcome
        finally:
            record.send_signal(signal.SIGTERM)
            record.wait(20)
    kept = open_store(tmp_path)
    for number, content in enumerate(contents):
        [entry] = RecordView(kept, "test").show(synthetic_patient(950 + number).ins)
        assert kept.read(entry.unique_id) == content
    # Files without a row, left by the two deaths between them: nothing else is swept.
    assert kept.sweep(timedelta(0)) == 2
    assert all(kept.read(read_cda(content).unique_id) == content for content in contents)
    kept.close()
    store.close()
