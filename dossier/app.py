"""The record's web services at the DMP's own paths: `repository` (ITI-41), `registry` (ITI-18, ITI-57), `patients`
(TD0.2), in SOAP 1.2
with MTOM (dmp.md §1.1 to §1.3).

Invariants
* Nothing is kept unless: the TLS peer and the VIHF's signer are trusted and of one structure, that structure may act
for the VIHF's
  Identifiant_Structure, the VIHF, the metadata and the documents name one patient, and the lot signature covers every document.
* Every decision about a readable VIHF is traced; a deposit and its trace line are one transaction.
* An answer is a RegistryResponse or a SOAP fault; no traceback, no patient data in reasons, nothing of a request in logs.
* Bounded: body size, body time, number of documents (codecs bound the rest).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dossier.asker import Authority, FaultRefusal, identify
from dossier.model import RecordRefusal, RecordUnavailable
from dossier.serve import PEER_CERTIFICATE
from dossier.store import RecordStore
from dossier.transactions import SERVICES, Place, Transaction, carry_out
from ihe import soap
from ihe.certificates import certificate_of

BASE = "/si-dmp-server/v2/services"
MAX_BODY = 64 * 1024 * 1024
BODY_SECONDS = 60.0
_SOAP = 'application/soap+xml; charset=UTF-8; action="{action}"'
_log = structlog.get_logger()


class TooLarge(Exception):
    """The body passes the limit."""


def _utc() -> datetime:
    return datetime.now(UTC)


def make_record_app(
    store: RecordStore,
    authority: Authority,
    *,
    clock: Callable[[], datetime] = _utc,
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
) -> Starlette:
    """The Starlette application of the record. `authority` holds the trust decisions; `clock` gives aware UTC times."""
    place = Place(store, authority)

    async def service(request: Request) -> Response:
        transactions = SERVICES.get(request.path_params["service"])
        if transactions is None:
            return Response(status_code=404)
        try:
            body = await _read_body(request, max_body, body_seconds)
        except TooLarge:
            return _fault(soap.Fault(soap.FaultCode.SENDER, "Message trop volumineux / message too large"), 413)
        except TimeoutError:
            return _fault(soap.Fault(soap.FaultCode.SENDER, "Message trop lent / message too slow"), 408)
        except ClientDisconnect:
            return Response(status_code=400)
        peer = getattr(request.state, PEER_CERTIFICATE, None)
        content_type = request.headers.get("content-type", "")
        return await asyncio.to_thread(_answer_to, place, transactions, clock(), peer, content_type, body)

    async def health(_: Request) -> Response:
        try:
            await asyncio.to_thread(store.check)
        except RecordUnavailable:
            return PlainTextResponse("unavailable\n", 503)
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route(f"{BASE}/{{service}}", service, methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
        ]
    )


async def _read_body(request: Request, max_body: int, seconds: float) -> bytes:
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or len(announced) > 12 or int(announced) > max_body:
        raise TooLarge
    pieces: list[bytes] = []
    size = 0
    async with asyncio.timeout(seconds):
        async for piece in request.stream():
            size += len(piece)
            if size > max_body:
                raise TooLarge
            pieces.append(piece)
    return b"".join(pieces)


def _answer_to(
    place: Place,
    transactions: Mapping[str, Transaction],
    at: datetime,
    peer: bytes | None,
    content_type: str,
    body: bytes,
) -> Response:
    """Decide on one request (in a thread). Whatever goes wrong is an answer."""
    message_id, action = "", ""
    try:
        certificate = certificate_of(peer) if peer else None
        request = identify(place.authority, certificate, content_type, body, at, actions=frozenset(transactions))
        message_id, transaction = request.envelope.message_id[:200], transactions[request.envelope.action]
        action = transaction.answer
        try:
            answer = carry_out(place, transaction, request, at)
        except RecordRefusal as refusal:
            _log.info("request refused", transaction=transaction.name, code=refusal.code)
            answer = transaction.refuse(refusal)
        except RecordUnavailable:
            _log.warning("record unavailable")
            busy = "XDSRegistryBusy" if transaction.name in ("ITI-18", "ITI-57") else "XDSRepositoryBusy"
            answer = transaction.refuse(RecordRefusal(busy, "indisponible / unavailable"))
        return _envelope(answer, action, message_id)
    except FaultRefusal as refusal:
        _log.info("request refused", code=refusal.fault.subcode or refusal.fault.code.value)
        return _fault(refusal.fault, 400, refusal.message_id or message_id)
    except Exception as error:
        reference = uuid.uuid4().hex[:12]
        _log.error("internal error", error=type(error).__name__, reference=reference)
        reason = f"Erreur interne, référence {reference} / internal error"
        return _fault(soap.Fault(soap.FaultCode.RECEIVER, reason), 500, message_id)


def _envelope(body: bytes, action: str, relates_to: str) -> Response:
    envelope = soap.build_envelope(body, action=action, message_id=_new_id(), relates_to=relates_to)
    return Response(envelope, 200, media_type=_SOAP.format(action=action))


def _fault(fault: soap.Fault, status: int, relates_to: str = "") -> Response:
    envelope = soap.build_fault(fault, message_id=_new_id(), relates_to=relates_to)
    return Response(envelope, status, media_type=_SOAP.format(action=f"{soap.WSA}/fault"))


def _new_id() -> str:
    return f"urn:uuid:{uuid.uuid4()}"
