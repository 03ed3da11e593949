"""The record over real mutual TLS: what it keeps, and everything it must refuse."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from dossier import RecordView
from ihe import soap
from ihe.ebrim import RegistryResponse, Submission, has_member
from ihe.samples import synthetic_patient
from tests.dossier.house import (
    OTHER_STRUCTURE,
    House,
    Lot,
    Trust,
    answer,
    house,
    make_cda,
    now,
    oid,
    spoil_entry,
)


def codes(response: httpx.Response) -> tuple[str, ...]:
    """The codes of a refusal: RegistryError codes, or the fault's code and subcode."""
    said = answer(response)
    if isinstance(said, soap.Fault):
        return (said.code.value, said.subcode)
    assert not said.success
    return tuple(error.code for error in said.errors)


def test_a_deposit_is_kept_shown_and_traced(record: House) -> None:
    lot = Lot(record.trust)
    response = record.post(*lot.compose())
    assert response.status_code == 200
    assert answer(response) == RegistryResponse(True)
    view = RecordView(record.store, "admin")
    [entry] = view.show(lot.patient.ins)
    assert view.fetch(entry.unique_id) == lot.content
    assert (entry.type_code, entry.class_code, entry.status) == ("34112-3", "10", "Approved")
    assert entry.size == len(lot.content)
    assert "EXEMPLE" in entry.author
    fetched, shown, deposited = view.accesses(lot.patient.ins)
    assert (fetched.action, shown.action, deposited.action) == ("fetch", "show", "ITI-41")
    assert deposited.outcome == "Success"
    assert deposited.caller.person == "899900000019"
    assert deposited.caller.structure_id == "1990000011"
    assert "CN=sign.1990000011.practice" in deposited.caller.signer_dn
    assert "CN=auth.1990000011.practice" in deposited.caller.tls_dn


def test_the_same_again_is_a_duplicate_and_other_bytes_are_refused(record: House) -> None:
    lot = Lot(record.trust)
    assert answer(record.post(*lot.compose())) == RegistryResponse(True)
    assert codes(record.post(*lot.compose())) == ("XDSDuplicateUniqueIdInRegistry",)
    again = replace(lot, set_id=oid())
    assert codes(record.post(*again.compose())) == ("XDSDuplicateUniqueIdInRegistry",)
    other = replace(lot, set_id=oid(), content=lot.content.replace(b"HOPITAL DE TEST", b"HOPITAL DE TOUT"))
    assert other.content != lot.content
    assert codes(record.post(*other.compose())) == ("XDSNonIdenticalHash",)
    assert len(record.store.show(f"{lot.patient.ins}^^^&{lot.patient.ins_oid}&ISO^NH")) == 1


def test_replacement_deprecates_the_previous_entry_once(record: House) -> None:
    first = Lot(record.trust)
    record.post(*first.compose())
    view = RecordView(record.store, "admin")
    [entry] = view.show(first.patient.ins)
    second = Lot(record.trust, content=make_cda(first.patient, text="v2"), replaces=entry.entry_uuid)
    assert answer(record.post(*second.compose())) == RegistryResponse(True)
    assert [item.status.value for item in view.show(first.patient.ins)] == ["Deprecated", "Approved"]
    third = Lot(record.trust, content=make_cda(first.patient, text="v3"), replaces=entry.entry_uuid)
    assert codes(record.post(*third.compose())) == ("XDSRegistryDeprecatedDocumentError",)
    unknown = Lot(record.trust, content=make_cda(first.patient, text="v4"), replaces="urn:uuid:unknown")
    assert codes(record.post(*unknown.compose())) == ("XDSRegistryMetadataError",)
    foreign = Lot(record.trust, patient=synthetic_patient(2), replaces=view.show(first.patient.ins)[1].entry_uuid)
    assert codes(record.post(*foreign.compose())) == ("XDSRegistryMetadataError",)
    assert len(view.show(first.patient.ins)) == 2


def unsigned(assertion: bytes) -> bytes:
    """The assertion without its signature."""
    start, stop = assertion.index(b"<ds:Signature"), assertion.index(b"</ds:Signature>") + len(b"</ds:Signature>")
    return assertion[:start] + assertion[stop:]


def altered(assertion: bytes) -> bytes:
    """A signed word changed."""
    assert b"Alice EXEMPLE" in assertion
    return assertion.replace(b"Alice EXEMPLE", b"Alicia EXEMPLE")


def no_vihf(_: bytes) -> None:
    """No assertion at all."""


VIHF_CASES: list[tuple[str, Callable[[Trust], Lot], str]] = [
    ("none", lambda trust: Lot(trust, spoil_vihf=no_vihf), "InvalidSecurity"),
    ("unsigned", lambda trust: Lot(trust, spoil_vihf=unsigned), "InvalidSecurityToken"),
    ("altered", lambda trust: Lot(trust, spoil_vihf=altered), "FailedCheck"),
    ("expired", lambda trust: Lot(trust, vihf_at=now() - timedelta(hours=1)), "MessageExpired"),
    ("early", lambda trust: Lot(trust, vihf_at=now() + timedelta(hours=1)), "MessageExpired"),
    ("patient", lambda trust: Lot(trust, vihf_patient=synthetic_patient(7)), "XDSPatientIdDoesNotMatch"),
    ("structure", lambda trust: Lot(trust, vihf_structure=OTHER_STRUCTURE), "FailedAuthentication"),
    ("foreign signer", lambda trust: Lot(trust, vihf_signer=trust.other_signer), "DMPInvalidCertificate"),
    ("not a signature certificate", lambda trust: Lot(trust, vihf_signer=trust.peer), "DMPInvalidCertificate"),
]


@pytest.mark.parametrize(("make", "subcode"), [case[1:] for case in VIHF_CASES], ids=[case[0] for case in VIHF_CASES])
def test_a_bad_vihf_is_a_fault_and_keeps_nothing(record: House, make: Callable[[Trust], Lot], subcode: str) -> None:
    lot = make(record.trust)
    response = record.post(*lot.compose())
    assert response.status_code == 400
    assert codes(response) == ("Sender", subcode)
    assert lot.patient.ins.encode() not in response.content
    assert RecordView(record.store, "admin").show(lot.patient.ins) == []


LOT_CASES: list[tuple[str, Callable[[Trust], Lot], str]] = [
    ("hash", lambda trust: Lot(trust, spoil=spoil_entry(hash="0" * 40)), "XDSRepositoryMetadataError"),
    ("size", lambda trust: Lot(trust, spoil=spoil_entry(size=1)), "XDSRepositoryMetadataError"),
    ("no class", lambda trust: Lot(trust, spoil=spoil_entry(class_code=None)), "XDSRepositoryMetadataError"),
    ("other id", lambda trust: Lot(trust, spoil=spoil_entry(unique_id=oid())), "XDSRepositoryError"),
    ("no part", lambda trust: Lot(trust, spoil_parts=lambda parts: {}), "XDSMissingDocument"),
    ("foreign lot signer", lambda trust: Lot(trust, lot_signer=trust.other_signer), "XDSRepositoryError"),
    ("CDA of another patient", lambda trust: Lot(trust, content=make_cda(synthetic_patient(9))), "fault"),
]


@pytest.mark.parametrize(("make", "code"), [case[1:] for case in LOT_CASES], ids=[case[0] for case in LOT_CASES])
def test_a_bad_lot_is_refused_whole(record: House, make: Callable[[Trust], Lot], code: str) -> None:
    lot = make(record.trust)
    said = codes(record.post(*lot.compose()))
    assert said == (("Sender", "XDSPatientIdDoesNotMatch") if code == "fault" else (code,))
    assert RecordView(record.store, "admin").show(lot.patient.ins) == []


def test_metadata_of_one_patient_around_a_document_of_another_are_refused(record: House) -> None:
    lot = Lot(record.trust, content=make_cda(synthetic_patient(9)))
    claimed = f"{lot.patient.ins}^^^&{lot.patient.ins_oid}&ISO^NH"
    lot.spoil = lambda submission: replace(
        submission,
        submission_set=replace(submission.submission_set, patient_id=claimed),
        documents=tuple(replace(entry, patient_id=claimed) for entry in submission.documents),
    )
    assert codes(record.post(*lot.compose())) == ("XDSRepositoryMetadataError",)


def test_refusals_are_traced_too(record: House) -> None:
    lot = Lot(record.trust, spoil=spoil_entry(size=1))
    record.post(*lot.compose())
    [access] = RecordView(record.store, "admin").accesses(lot.patient.ins)
    assert (access.action, access.outcome) == ("ITI-41", "XDSRepositoryMetadataError")


def test_another_structures_connection_cannot_carry_a_stolen_vihf(record: House) -> None:
    response = record.post(*Lot(record.trust).compose(), issued=record.trust.other_peer)
    assert codes(response) == ("Sender", "DMPInvalidCertificate")


def test_a_revoked_client_is_refused(tmp_path: Path) -> None:
    own = Trust.create(tmp_path / "trust")
    own.authority.revoke(own.peer.certificate, now() - timedelta(minutes=1))
    with house(own, tmp_path) as record:
        assert codes(record.post(*Lot(own).compose())) == ("Sender", "FailedAuthentication")


HOSTILE: list[tuple[str, bytes]] = [
    ("text/plain", b"hello"),
    ("multipart/related", b""),
    ('multipart/related; boundary="x"; type="application/xop+xml"', b"--x\r\n\r\n"),
    ('multipart/related; boundary="x"', b"--x--\r\n"),
    ('multipart/related; boundary="x"', b"--x\r\nContent-ID: <a>\r\n\r\n<a/>\r\n" * 500 + b"--x--"),
    ("application/soap+xml", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
    ("application/soap+xml", b"<a>" * 100_000),
    ("application/soap+xml", b"\xff\xfe\x00\x00" * 100),
    ("", b""),
]


@pytest.mark.parametrize(("content_type", "body"), HOSTILE)
def test_hostile_bodies_are_faults(record: House, content_type: str, body: bytes) -> None:
    response = record.post(content_type, body)
    assert response.status_code == 400
    said = answer(response)
    assert isinstance(said, soap.Fault)
    assert said.code is soap.FaultCode.SENDER
    assert b"Traceback" not in response.content
    assert b"root:" not in response.content


def test_a_body_over_the_limit_is_refused_announced_or_not(trust: Trust, tmp_path: Path) -> None:
    with house(trust, tmp_path, max_body=10_000) as record:
        assert record.post("application/soap+xml", b"x" * 10_001).status_code == 413
        context = trust.client(trust.peer)
        with httpx.Client(verify=context, trust_env=False) as client:
            response = client.post(record.repository, content=(b"x" * 1000 for _ in range(20)))
        assert response.status_code == 413


def test_a_body_that_never_ends_is_cut(record: House) -> None:
    host, port = "localhost", int(record.url.rpartition(":")[2])
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        record.trust.client(record.trust.peer).wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(b"POST /si-dmp-server/v2/services/repository HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert tls.recv(100).startswith(b"HTTP/1.1 408")


def test_no_client_certificate_no_service(record: House) -> None:
    anchors = record.trust.folder / "anchors"
    bundle = record.folder / "anchors.pem"
    bundle.write_bytes(b"".join(path.read_bytes() for path in sorted(anchors.glob("*.pem"))))
    base = ["curl", "--silent", "--show-error", "--cacert", str(bundle), "--noproxy", "*", f"{record.url}/healthz"]
    refused = subprocess.run(base, capture_output=True, timeout=20, check=False)
    # 35, 52, 56: TLS 1.3 lets the client finish before the server's refusal, so curl tells it in one of three ways.
    assert refused.returncode in (35, 52, 56), refused.stderr
    assert refused.stdout == b""
    chain, key = record.trust.peer.write(record.folder, "client")
    served = subprocess.run(
        [*base, "--cert", str(chain), "--key", str(key)], capture_output=True, timeout=20, check=True
    )
    assert served.stdout == b"ok\n"


def test_a_certificate_of_another_authority_is_refused(record: House, tmp_path: Path) -> None:
    stranger = Trust.create(tmp_path / "stranger")
    context = record.trust.client(None)
    chain, key = stranger.peer.write(tmp_path, "stranger")
    context.load_cert_chain(chain, key)
    with httpx.Client(verify=context, trust_env=False) as client, pytest.raises((httpx.HTTPError, ssl.SSLError)):
        client.get(f"{record.url}/healthz")


def test_nothing_clear_reaches_the_disk(record: House) -> None:
    canary = "CANARI-7f3b"
    patient = synthetic_patient(3)
    content = make_cda(patient).replace(b"HOPITAL DE TEST", canary.encode())
    lot = Lot(record.trust, patient=patient, content=content)
    assert answer(record.post(*lot.compose())) == RegistryResponse(True)
    secrets = [canary, patient.ins, patient.birth_name, "34112-3", "EXEMPLE"]
    files = [path for path in record.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        assert not [word for word in secrets if word.encode() in data], path


def test_one_part_cannot_be_many_documents(record: House) -> None:
    def doubled(submission: Submission) -> Submission:
        first, *rest = submission.documents
        twin = replace(first, entry_id="Document02", unique_id=oid())
        member = has_member(submission.submission_set.entry_id, "Document02", "as9")
        return replace(submission, documents=(first, twin, *rest), associations=(*submission.associations, member))

    lot = Lot(record.trust, spoil=doubled)
    content_type, body = lot.compose()
    spoilt = body.replace(b"cid:Document02@test", b"cid:Document01@test")
    assert spoilt != body
    assert codes(record.post(content_type, spoilt)) == ("XDSMissingDocument",)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /si-dmp-server/v2/services/repository HTTP/1.1\r\nHost: x\r\nX-",
        b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na",
    ],
    ids=["nothing", "half a head", "a body nobody reads"],
)
def test_a_connection_that_does_not_finish_asking_is_closed(
    record: House, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dossier.serve.HEAD_SECONDS", 0.5)
    host, port = "localhost", int(record.url.rpartition(":")[2])
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        record.trust.client(record.trust.peer).wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.settimeout(0.2)
        limit = time.monotonic() + 5
        tls.sendall(begun)
        closed = False
        while not closed and time.monotonic() < limit:
            try:
                closed = tls.recv(1000) == b""
            except TimeoutError:
                if begun:
                    tls.sendall(b"a")
            except OSError:
                closed = True
        assert closed
