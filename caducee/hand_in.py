"""The mail side of the hospital's HL7 feed: what the gateway made is protected and accepted as a submission of the
feed's mailbox."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime

from caducee.planner import Planner
from dmp_bridge import DepositContext
from dmp_bridge.gateway import HandIn, HandInLater, HandInRefused
from mailstore import (
    Acceptance,
    Account,
    Direction,
    Event,
    LocalDelivery,
    NewReceipt,
    OutgoingCopy,
    ReceiptKind,
    ReceiptState,
    StoreError,
)
from proxy import Refusal
from smtp import Services, fields
from trustspace import Freshness


class SubmissionSide:
    """`dmp_bridge.gateway.MailSide` over the services of the mail process."""

    def __init__(self, services: Services, planner: Planner) -> None:
        self._services = services
        self._planner = planner

    def context(self, mailbox: str) -> DepositContext | None:
        """Who deposits for this mailbox."""
        account = self._services.store.find_account(mailbox)
        return None if account is None or not account.active else self._planner.context(account)

    def hand_in(self, what: HandIn, at: datetime) -> str:
        """Protect and accept; everything is written in one transaction, and the same bytes again give the first number."""
        store = self._services.store
        account = store.find_account(what.mailbox)
        if account is None or not account.active:
            raise HandInRefused("boîte inconnue ou fermée / unknown or closed mailbox")
        acceptance = Acceptance(
            direction=Direction.SUBMISSION,
            principal=f"hl7:{what.mailbox}",
            mail_from=what.mailbox,
            recipients=what.recipients,
            message_id=what.message_id,
            received=what.received,
            deposits=what.deposits,
            events=(Event("submission.accepted", {"principal": what.mailbox, "peer": "hl7"}),),
            receipts=tuple(
                NewReceipt(recipient, kind, at + self._services.rules.receipt_deadline)
                for recipient in what.recipients
                for kind in what.receipts
            ),
        )
        try:
            before = store.accepted_before(acceptance)
            if before is not None:
                return before.submission_id
            if what.recipients:
                acceptance = self._protected(acceptance, account, what, at)
            number = store.accept(acceptance, at).submission_id
            if ReceiptKind.DELIVERY in what.receipts:
                self._delivered_here(number, acceptance, at)
            return number
        except StoreError:
            raise HandInLater("stockage indisponible / storage unavailable") from None

    def _delivered_here(self, number: str, acceptance: Acceptance, at: datetime) -> None:
        """Mailboxes of ours have the message already; the others' receipts come back as DSN."""
        for delivery in acceptance.local:
            self._services.store.answer_receipt(
                number, delivery.recipient, ReceiptKind.DELIVERY, ReceiptState.POSITIVE, "delivered 2.0.0", at
            )

    def _protected(self, acceptance: Acceptance, account: Account, what: HandIn, at: datetime) -> Acceptance:
        services = self._services
        here = {one: self._mailbox(one, at) for one in what.recipients}
        raw, _ = fields.completed(what.content, identifier=secrets.token_hex(10), hostname=services.hostname, at=at)
        protected = services.protector.protect(
            raw, sender=account, recipients=what.recipients, at=at, vouched=what.vouched
        )
        if isinstance(protected, Refusal):
            if protected.code < 500:
                raise HandInLater(f"{protected.text_fr} / {protected.text_en}")
            raise HandInRefused(f"{protected.text_fr} / {protected.text_en}")
        trace = fields.received(
            peer="",
            greeted="hl7",
            hostname=services.hostname,
            protocol="MLLP",
            identifier=secrets.token_hex(10),
            tls="",
            at=at,
        )
        local = tuple(
            LocalDelivery(
                found.id,
                address,
                fields.delivered(
                    protected.local[address],
                    hostname=services.hostname,
                    results=("auth=pass",),
                    trace=trace,
                    mail_from=what.mailbox,
                ),
            )
            for address, found in here.items()
            if found is not None
        )
        return Acceptance(
            direction=acceptance.direction,
            principal=acceptance.principal,
            mail_from=acceptance.mail_from,
            recipients=acceptance.recipients,
            message_id=acceptance.message_id,
            received=acceptance.received,
            local=local,
            outgoing=tuple(_asking(copy, what) for copy in protected.copies),
            deposits=acceptance.deposits,
            events=(*acceptance.events, *protected.events),
            receipts=acceptance.receipts,
        )

    def _mailbox(self, address: str, at: datetime) -> Account | None:
        """The same doors as submission: a mailbox here, or a domain of the white list in force."""
        services = self._services
        domain = address.rpartition("@")[2]
        if domain in services.local_domains:
            account = services.store.find_account(address)
            if account is None or not account.active:
                raise HandInRefused("destinataire inconnu ou fermé / unknown or closed recipient")
            return account
        if services.trust.freshness(at) in (Freshness.STALE, Freshness.NONE):
            raise HandInLater("liste blanche indisponible / white list unavailable")
        if not services.trust.is_listed(domain, at):
            raise HandInRefused("domaine hors de l'espace de confiance / domain outside the trust space")
        return None


def _asking(copy: OutgoingCopy, what: HandIn) -> OutgoingCopy:
    """A copy that asks for receipts of delivery, when the feed waits for them (RFC 3461 §4.1)."""
    if ReceiptKind.DELIVERY not in what.receipts:
        return copy
    return replace(copy, options={**copy.options, "notify": "FAILURE,SUCCESS"})
