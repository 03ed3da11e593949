"""The hospital's feed: an HL7 v2 hand-over becomes the message and the deposit that its flags ask for, and is
acknowledged (dmp.md §8).

Invariants
* AA is said once message and deposit are accepted for good; the same bytes again get AA again and make nothing new.
* AE is an error of the message (never to be sent again as it is), AR a circumstance (to be sent again).
* A feed speaks for its own mailbox only: it is known by its certificate and by its application and facility (MSH-3, MSH-4).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dmp_bridge import metrics
from dmp_bridge.context import DepositContext
from dmp_bridge.decide import Desk, plan_handed_over
from dmp_bridge.package import Package, PackageRefused, Sender, make_message, make_package
from dmp_bridge.register import RegisterUnavailable
from ihe import hl7v2
from ihe.hand_over import HandOver, Order, of_message
from mailstore.model import NewDeposit, ReceiptKind

_PATIENTS = "patient.mssante.fr"
_log = structlog.get_logger()


class HandInRefused(Exception):
    """The mail side refuses a message for good; the text names the rule, no patient data."""


class HandInLater(Exception):
    """The mail side cannot take it now."""


@dataclass(frozen=True, slots=True)
class HandIn:
    """A message to hand in for a mailbox. `received` is what makes a repetition recognisable; `vouched`: the feed is known
    by its certificate (or comes through the operator's own tunnel), so that it needs no send code. `receipts` are the mail
    receipts that the feed waits for."""

    mailbox: str
    recipients: tuple[str, ...]
    message_id: str
    content: bytes
    received: bytes
    deposits: tuple[NewDeposit, ...]
    vouched: bool = False
    receipts: tuple[ReceiptKind, ...] = ()


class Awaiting(Protocol):
    """The verb of the bridge's register that a feed's receipts need."""

    def await_receipts(self, message_id: str, feed: str, control_id: str, at: datetime) -> None: ...


class MailSide(Protocol):
    """Accepts what the gateway made: protects it, keeps it, sends it on its way."""

    def hand_in(self, what: HandIn, at: datetime) -> str:
        """The submission id. The same `received` again gives the first id. Raises HandInRefused, HandInLater."""
        ...

    def context(self, mailbox: str) -> DepositContext | None:
        """Who deposits for this mailbox, None when it is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """A feed. `application` is (MSH-3, MSH-4) of what it sends; `key` the SHA-256 of its certificate's public key
    (hexadecimal), ""
    on a listener without TLS; `strict`: the printed matrix of combinations refuses, instead of being told in the trace (§8.3)."""

    name: str
    application: tuple[str, str]
    mailbox: str
    key: str = ""
    strict: bool = False


def key_of(certificate: bytes) -> str:
    """SHA-256 of the public key of a DER certificate, lower-case hexadecimal."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class Gateway:
    """The handler of a `dmp_bridge.mllp.MllpServer`."""

    def __init__(
        self,
        side: MailSide,
        feeds: Sequence[FeedSettings],
        *,
        desk: Desk,
        source_id: str,
        hostname: str,
        clock: Callable[[], datetime],
        product: str = "Caducee",
        register: Awaiting | None = None,
    ) -> None:
        """`register` remembers which feeds wait for mail receipts; without one, none is asked for."""
        self._side = side
        self._feeds: Mapping[tuple[str, str], FeedSettings] = {feed.application: feed for feed in feeds}
        self._desk = desk
        self._source_id = source_id
        self._hostname = hostname
        self._clock = clock
        self._product = product
        self._register = register

    def __call__(self, data: bytes, peer: bytes | None) -> bytes:
        """Answer one message."""
        at, message = self._clock(), None
        try:
            message = hl7v2.parse(data)
            feed = self._feed(message, peer)
            number = self._take(feed, of_message(message), data, at, vouched=bool(feed.key) or peer is None)
            _log.info("hl7 hand-over accepted", feed=feed.name, submission_id=number)
            return self._ack(message, "AA", at, text=number)
        except hl7v2.Hl7Error as error:
            _log.info("hl7 hand-over refused", code=error.code, location=error.location)
            return self._ack(message, "AE", at, error, text=error.message)
        except (PackageRefused, HandInRefused) as error:
            _log.info("hl7 hand-over refused", code="207", reason=str(error))
            return self._ack(message, "AE", at, hl7v2.Hl7Error("207", "OBX-5", "application error"), text=str(error))
        except RegisterUnavailable as error:
            return self._ack(message, "AR", at, hl7v2.Hl7Error("207", "MSH", "application error"), text=str(error))
        except HandInLater as error:
            return self._ack(message, "AR", at, hl7v2.Hl7Error("207", "MSH", "application error"), text=str(error))

    def _ack(
        self, message: hl7v2.Message | None, code: str, at: datetime, *errors: hl7v2.Hl7Error, text: str = ""
    ) -> bytes:
        metrics.HAND_OVERS.labels(code).inc()
        return hl7v2.build_ack(message, code, control_id=uuid.uuid4().hex[:20], at=at, errors=errors, text=text)

    def _feed(self, message: hl7v2.Message, peer: bytes | None) -> FeedSettings:
        feed = self._feeds.get((message.header.get(3), message.header.get(4)))
        if feed is None or (feed.key and (peer is None or key_of(peer) != feed.key.lower())):
            # One answer for both: who is known here is nobody's business.
            raise hl7v2.Hl7Error("207", "MSH-3", "unknown application")
        return feed

    def _take(self, feed: FeedSettings, given: HandOver, data: bytes, at: datetime, *, vouched: bool) -> str:
        if feed.strict and "combination" in given.warnings:
            raise hl7v2.Hl7Error("207", "OBX", "a combination of flags that the profile does not allow")
        professional, patient = given.flag("DESTMSSANTEPS"), given.flag("DESTMSSANTEPAT")
        if patient and given.flag("INVISIBLE_PATIENT"):
            raise hl7v2.Hl7Error("207", "OBX", "hidden from the patient, and sent to the patient")
        if not (professional or patient or given.flag("DESTDMP")):
            raise hl7v2.Hl7Error("101", "OBX", "no destination is asked for")
        context = self._side.context(feed.mailbox)
        if context is None:
            raise HandInRefused("boîte inconnue / unknown mailbox")
        deposits = self._deposits(feed, given, context, data, at) if given.flag("DESTDMP") else ()
        parts: list[HandIn] = []
        if professional:
            parts.append(self._to_professionals(feed, given, context, data, at))
        if patient:
            parts.append(self._to_patient(feed, given, context, data, at))
        if not parts:
            name = self._message_id(data, "dmp")
            parts.append(HandIn(feed.mailbox, (), name, b"", data + b"\0dmp", ()))
        parts[0] = replace(parts[0], deposits=deposits)
        for part in parts:
            if part.receipts and self._register is not None:
                # Before it is accepted: a crash in between leaves a wait that ends, never a receipt that nobody passes on.
                self._register.await_receipts(part.message_id, feed.name, given.control_id, at)
        numbers = [self._side.hand_in(replace(part, vouched=vouched), at) for part in parts]
        return numbers[0]

    def _deposits(
        self, feed: FeedSettings, given: HandOver, context: DepositContext, data: bytes, at: datetime
    ) -> tuple[NewDeposit, ...]:
        """The sender of the hand-over (PRT SB) deposits in the mailbox's name (SC.DMP/CONF.12)."""
        sender = given.sender
        if sender is None or not (sender.person_id or sender.structure_id):
            raise hl7v2.Hl7Error("101", "PRT-4", "the sender (SB) is required for a deposit")
        asked = replace(
            context,
            responsible_id=sender.person_id or context.responsible_id,
            responsible_surname=sender.family or context.responsible_surname,
            responsible_given_name=sender.given or context.responsible_given_name,
            message_id=self._message_id(data, "ps"),
            notify=feed.mailbox,
            feed=feed.name,
            control_id=given.control_id,
            ack_reception=given.flag("ACK_RECEPTION"),
        )
        return plan_handed_over(given, asked, at=at, desk=self._desk)

    def _package(self, given: HandOver, context: DepositContext, at: datetime) -> Package:
        action = {Order.NEW: "", Order.REPLACE: "C", Order.DELETE: "D"}[given.order]
        sender = given.sender
        who = Sender(
            context.structure_id,
            context.structure_name,
            sender.person_id if sender else "",
            sender.family if sender else "",
            sender.given if sender else "",
        )
        return make_package(
            given.documents,
            sender=who,
            source_id=self._source_id,
            at=at,
            action=action,
            visibility=given.visibility,
            product=self._product,
        )

    def _to_professionals(
        self, feed: FeedSettings, given: HandOver, context: DepositContext, data: bytes, at: datetime
    ) -> HandIn:
        addresses = [party.address for party in given.recipients if party.address]
        recipients = tuple(dict.fromkeys(one for one in addresses if not one.endswith(f"@{_PATIENTS}")))
        if not recipients:
            raise hl7v2.Hl7Error("101", "PRT-15", "no professional's address is given")
        text = given.body_professional or "Veuillez trouver ci-joint un document.\n"
        return self._made(feed, given, context, recipients, text, "ps", data, at)

    def _to_patient(
        self, feed: FeedSettings, given: HandOver, context: DepositContext, data: bytes, at: datetime
    ) -> HandIn:
        if given.patient is None:
            raise hl7v2.Hl7Error("101", "PID-3", "no INS, hence no patient's address")
        address = f"{given.patient.extension.lower()}@{_PATIENTS}"
        text = given.body_patient or "Un document de santé vous est adressé.\n"
        final = given.patient_may_not_reply
        return self._made(feed, given, context, (address,), text, "patient", data, at, final=final)

    def _made(
        self,
        feed: FeedSettings,
        given: HandOver,
        context: DepositContext,
        recipients: tuple[str, ...],
        text: str,
        kind: str,
        data: bytes,
        at: datetime,
        *,
        final: bool = False,
    ) -> HandIn:
        name = self._message_id(data, kind)
        wanted: list[ReceiptKind] = []
        if self._register is not None:
            wanted += [ReceiptKind.DELIVERY] if given.flag("ACK_RECEPTION") else []
            wanted += [ReceiptKind.READING] if given.flag("ACK_LECTURE_MSS") else []
        content = make_message(
            self._package(given, context, at),
            sender=feed.mailbox,
            recipients=recipients,
            text=text,
            message_id=name,
            at=at,
            final=final,
            receipt_to=feed.mailbox if ReceiptKind.READING in wanted else "",
        )
        return HandIn(feed.mailbox, recipients, name, content, data + b"\0" + kind.encode(), (), receipts=tuple(wanted))

    def _message_id(self, data: bytes, kind: str) -> str:
        """The same hand-over makes the same message."""
        return f"<hl7.{hashlib.sha256(data).hexdigest()[:40]}.{kind}@{self._hostname}>"
