"""The FHIR outlet against a practice endpoint of its own: PDSm / MHD over mutual TLS, the same outcomes as SOAP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dmp_bridge import Depositor, Outcome
from dmp_bridge.context import DELETE
from dmp_bridge.fhir import FhirOutlet
from ihe import fhir
from ihe.cda import read_cda
from ihe.ebrim import entry_from_cda, lot, xds_author
from ihe.samples import synthetic_author, synthetic_patient
from mailstore.model import DepositState
from mailstore.store import Store
from tests.dmp_bridge.bridge import SOURCE_ID, now, open_mailstore
from tests.dmp_bridge.test_transactions import put
from tests.dossier.house import Trust, make_cda, serving
from trustspace import client_context, server_context

PATIENT = synthetic_patient(1)


class Endpoint:
    """A practice server: Patient, DocumentReference (search, patch), transaction. In memory."""

    def __init__(self) -> None:
        self.references: dict[str, dict[str, Any]] = {}
        self.binaries: dict[str, bytes] = {}
        self.active: bool | None = True
        self.fail = 0

    def app(self) -> Starlette:
        """The web application."""
        return Starlette(
            routes=[
                Route("/fhir/Patient", self.patient),
                Route("/fhir/DocumentReference", self.search),
                Route("/fhir/DocumentReference/{name}", self.patch, methods=["PATCH"]),
                Route("/fhir", self.transaction, methods=["POST"]),
            ]
        )

    async def patient(self, request: Request) -> JSONResponse:
        """The patient asked for."""
        assert request.query_params["identifier"] == f"urn:oid:{PATIENT.ins_oid}|{PATIENT.ins}"
        found = [] if self.active is None else [{"resource": {"resourceType": "Patient", "active": self.active}}]
        return JSONResponse({"resourceType": "Bundle", "type": "searchset", "entry": found})

    async def search(self, request: Request) -> JSONResponse:
        """ITI-67 by master identifier."""
        wanted = request.query_params["identifier"].partition("|")[2]
        found = [one for one in self.references.values() if one["masterIdentifier"]["value"] == wanted]
        return JSONResponse(
            {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in found]}
        )

    async def patch(self, request: Request) -> JSONResponse:
        """FHIRPath Patch of the status."""
        parts = {part["name"]: part for part in (await request.json())["parameter"][0]["part"]}
        assert parts["path"]["valueString"] == "DocumentReference.status"
        self.references[request.path_params["name"]]["status"] = parts["value"]["valueCode"]
        return JSONResponse({"resourceType": "DocumentReference"})

    async def transaction(self, request: Request) -> JSONResponse:
        """ITI-65: everything or nothing, then the answer that may be lost."""
        bundle = await request.json()
        kinds = [item["resource"]["resourceType"] for item in bundle["entry"]]
        assert kinds == ["List", "DocumentReference", "Binary"] and bundle["type"] == "transaction"
        listing, reference, binary = (item["resource"] for item in bundle["entry"])
        assert listing["entry"][0]["item"]["reference"] == bundle["entry"][1]["fullUrl"]
        assert reference["content"][0]["attachment"]["url"] == bundle["entry"][2]["fullUrl"]
        content = base64.b64decode(binary["data"])
        name = f"d{len(self.references)}"
        self.references[name] = {**reference, "id": name}
        self.binaries[name] = content
        if self.fail:
            self.fail -= 1
            return JSONResponse({"resourceType": "OperationOutcome"}, 503)
        answer = [{"response": {"status": "201 Created"}} for _ in bundle["entry"]]
        return JSONResponse({"resourceType": "Bundle", "type": "transaction-response", "entry": answer})


def test_what_is_sent_is_base_fhir_for_somebody_else() -> None:
    """fhir.resources knows FHIR's own structures, cardinalities and types (R4B: these resources are those of R4). The published
    PDSm and MHD profiles have no package that could be installed here: their rules are checked by name in the tests below."""
    from fhir.resources.R4B.bundle import Bundle
    from fhir.resources.R4B.parameters import Parameters

    content = make_cda(PATIENT)
    header = read_cda(content)
    entry = entry_from_cda(header, content, visibility_codes=("INVISIBLE_PATIENT",))
    author = xds_author(synthetic_author("899900000019", "EXEMPLE", "Alice"))
    submission = lot(header, (entry,), unique_id="2.25.1", source_id=SOURCE_ID, author=author, at=now())
    former = {entry.entry_id: "urn:uuid:11111111-1111-4111-8111-111111111111"}
    sent = json.loads(fhir.transaction(submission, {entry.entry_id: content}, replaces=former))
    read = Bundle.model_validate(sent)
    assert json.loads(read.model_dump_json()) == sent
    patch = json.loads(fhir.status_patch("superseded"))
    assert json.loads(Parameters.model_validate(patch).model_dump_json()) == patch
    with pytest.raises(ValueError):
        Bundle.model_validate(sent | {"type": "nonsense", "entry": [{"resource": {"resourceType": "List"}}]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store."""
    opened = open_mailstore(tmp_path)
    yield opened
    opened.close()


@contextmanager
def endpoint(trust: Trust) -> Iterator[tuple[Endpoint, FhirOutlet]]:
    """A running endpoint and the way to it."""
    made = Endpoint()
    context = server_context(trust.server.chain, trust.server.key, client_anchors=trust.anchors, client="required")
    with serving(made.app(), context) as url:
        tls = client_context(trust.peer.chain, trust.peer.key, trust.anchors, check_hostname=True)
        yield made, FhirOutlet(f"{url}/fhir", tls, SOURCE_ID)


def run(store: Store, way: FhirOutlet, row: int) -> Outcome:
    """One attempt."""
    outcome = Depositor(store, way, pause=lambda _: timedelta(0)).run(row)
    assert outcome is not None
    return outcome


def test_deposit_replacement_and_deletion(trust: Trust, store: Store) -> None:
    first = make_cda(PATIENT)
    second = make_cda(PATIENT, text="v2", version=2, replaces=read_cda(first).unique_id)
    with endpoint(trust) as (server, way):
        for content in (first, second):
            assert run(store, way, put(store, content, visibility=("MASQUE_PS",))).state is DepositState.DEPOSITED
        assert [one["status"] for one in server.references.values()] == ["superseded", "current"]
        assert server.references["d1"]["relatesTo"][0] == {
            "code": "replaces",
            "target": {"reference": "DocumentReference/d0"},
        }
        assert list(server.binaries.values()) == [first, second]
        labels = [label["coding"][0]["code"] for label in server.references["d0"]["securityLabel"]]
        assert labels == ["N", "MASQUE_PS"]
        assert run(store, way, put(store, second, action=DELETE)).code == "Deleted"
        assert server.references["d1"]["status"] == "entered-in-error"


def test_a_lost_answer_does_not_store_twice(trust: Trust, store: Store) -> None:
    with endpoint(trust) as (server, way):
        server.fail = 1
        row = put(store, make_cda(PATIENT))
        assert run(store, way, row).state is DepositState.RETRY
        again = run(store, way, row)
        assert (again.state, again.code) == (DepositState.DEPOSITED, "already-there")
        assert len(server.references) == 1


@pytest.mark.parametrize(("active", "code"), [(None, "no-record"), (False, "DMPClosed")])
def test_no_record_or_a_closed_one(trust: Trust, store: Store, active: bool | None, code: str) -> None:
    with endpoint(trust) as (server, way):
        server.active = active
        assert run(store, way, put(store, make_cda(PATIENT))).code == code
        assert server.references == {}


def test_other_bytes_under_the_same_identifier_are_for_a_person(trust: Trust, store: Store) -> None:
    content = make_cda(PATIENT)
    with endpoint(trust) as (server, way):
        server.fail = 1
        row = put(store, content)
        assert run(store, way, row).state is DepositState.RETRY
        server.references["d0"]["content"][0]["attachment"]["hash"] = base64.b64encode(b"x" * 20).decode()
        outcome = run(store, way, row)
        assert (outcome.state, outcome.code) == (DepositState.NEEDS_ATTENTION, "XDSNonIdenticalHash")


@given(
    st.binary(max_size=200) | st.dictionaries(st.text(max_size=5), st.integers()).map(lambda v: json.dumps(v).encode())
)
def test_answers_raise_their_own_error_only(data: bytes) -> None:
    for read in (fhir.read_found, fhir.read_patients, fhir.read_transaction):
        with pytest.raises(fhir.FhirError):
            read(data)
