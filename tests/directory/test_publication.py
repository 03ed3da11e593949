"""Publication to the national directory, against a practice endpoint that applies the FHIR Patch it receives."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from directory import CLAIRE_EXEMPLE, DirectoryError, Entry, MailboxKind, structure_mailboxes
from directory.publication import Answer, NationalPublisher, Operation, request, telecom

CLAIRE = CLAIRE_EXEMPLE.entry()
SERVICE = structure_mailboxes()[0]
KEY = "cle d'exercice"


class Practice(ThreadingHTTPServer):
    """Holders by resource and identifier, with their telecoms; a status to force."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.holders: dict[tuple[str, str], list[dict[str, Any]]] = {
            ("Practitioner", "urn:oid:1.2.250.1.71.4.2.1|810999000010"): [],
            ("Organization", "https://finess.esante.gouv.fr|990000010"): [],
        }
        self.forced = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/fhir/v2"


class _Handler(BaseHTTPRequestHandler):
    server: Practice

    def do_PATCH(self) -> None:
        parts = urlsplit(self.path)
        identifier = parse_qs(parts.query)["identifier"][0]
        holder = self.server.holders.get((unquote(parts.path).rpartition("/")[2], identifier))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/fhir+json" and self.headers["ESANTE-API-KEY"] == KEY
        status = self.server.forced or (404 if holder is None else _apply(holder, body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def _apply(holder: list[dict[str, Any]], body: dict[str, Any]) -> int:
    (operation,) = body["parameter"]
    part = {one["name"]: one for one in operation["part"]}
    kind, path = part["type"]["valueCode"], part["path"]["valueString"]
    if kind == "insert":
        holder.insert(part["index"]["valueInteger"], part["value"]["valueContactPoint"])
        return 200
    found = re.fullmatch(r"\w+\.telecom\.where\(value='(.+)'\)", path)
    assert found
    address = found.group(1).replace("\\'", "'")
    present = [one for one in holder if one["value"] == address]
    if not present:
        return 400
    holder.remove(present[0])
    if kind == "replace":
        holder.append(part["value"]["valueContactPoint"])
    return 200


@pytest.fixture
def practice() -> Iterator[Practice]:
    server = Practice()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def publisher(practice: Practice) -> Iterator[NationalPublisher]:
    with httpx.Client(headers={"ESANTE-API-KEY": KEY}, timeout=2.0) as client:
        yield NationalPublisher(client, practice.base)


def test_a_mailbox_is_inserted_replaced_and_deleted(practice: Practice, publisher: NationalPublisher) -> None:
    held = practice.holders["Practitioner", "urn:oid:1.2.250.1.71.4.2.1|810999000010"]
    assert publisher.send(request(CLAIRE, Operation.INSERT)) is Answer.DONE
    assert [one["value"] for one in held] == [CLAIRE.mail]
    assert publisher.send(request(CLAIRE, Operation.REPLACE, rank=2)) is Answer.DONE
    assert held == [telecom(CLAIRE, 2)]
    assert publisher.send(request(replace(CLAIRE, red_list=True), Operation.REPLACE)) is Answer.DONE
    assert held == []
    assert publisher.send(request(SERVICE, Operation.INSERT)) is Answer.DONE
    assert publisher.send(request(replace(SERVICE, suspended=True), Operation.REPLACE)) is Answer.DONE


def test_the_telecom_is_the_drafts() -> None:
    value = telecom(CLAIRE)
    assert (value["system"], value["value"], value["rank"]) == ("email", CLAIRE.mail, 1)
    metadata = value["extension"][1]["extension"]
    assert metadata[0]["valueCodeableConcept"]["coding"][0]["code"] == "PER"
    assert metadata[1] == {"url": "listeRouge", "valueBoolean": False}
    assert {"url": "description", "valueString": SERVICE.description} in telecom(SERVICE)["extension"][1]["extension"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, Answer.UNKNOWN_HOLDER),
        (412, Answer.SEVERAL_HOLDERS),
        (400, Answer.REFUSED),
        (429, Answer.LATER),
        (503, Answer.LATER),
    ],
)
def test_answers(practice: Practice, publisher: NationalPublisher, status: int, answer: Answer) -> None:
    practice.forced = status
    assert publisher.send(request(CLAIRE, Operation.INSERT)) is answer


def test_an_endpoint_that_is_down_is_for_later() -> None:
    with httpx.Client(timeout=0.5) as client:
        assert (
            NationalPublisher(client, "http://127.0.0.1:9/fhir").send(request(CLAIRE, Operation.INSERT)) is Answer.LATER
        )
    with pytest.raises(DirectoryError):
        NationalPublisher(httpx.Client(), "http://annuaire.exemple/fhir")


@pytest.mark.parametrize(
    "base",
    ["http://annuaire.example/fhir", "http://127.0.0.1.example/fhir", "http://127.0.0.1@example/fhir", "ftp://x", ""],
)
def test_the_key_never_travels_in_clear(base: str) -> None:
    with pytest.raises(DirectoryError, match="https"):
        NationalPublisher(httpx.Client(), base)


def test_an_address_cannot_leave_its_literal() -> None:
    entry = replace(CLAIRE, mail="o'neil@x.mssante.fr")
    part = request(entry, Operation.DELETE).body["parameter"][0]["part"]
    assert part[1]["valueString"] == "Practitioner.telecom.where(value='o\\'neil@x.mssante.fr')"


def test_a_mailbox_of_nobody_is_not_published() -> None:
    with pytest.raises(DirectoryError):
        request(Entry("dn", "a@b.fr", MailboxKind.APP), Operation.INSERT)
