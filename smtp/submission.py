"""Submission (ports 465 and 587): what a login of ours may send, and to whom (DESIGN, journey steps 1, 2, 4).

Invariants: 250 is said only once the store has committed message, recipients, deposits and audit together; a refused
message leaves an audit line and nothing else; the login, MAIL FROM and From are one and the same mailbox; every
recipient is a mailbox here or in a domain of the white list in force.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailstore import Acceptance, Account, Direction, Event, LocalDelivery, NewDeposit
from proxy.model import Protected, Refusal
from smtp import fields, grammar, replies
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Services, in_thread
from smtp.shell import Talk, Transaction
from trustspace import Freshness, Usage


class Submission:
    """The handler of both submission ports."""

    login_offered = True

    def __init__(self, services: Services) -> None:
        self._services = services

    async def password(self, talk: Talk, login: str, secret: str) -> Account | None:
        """Check a password; every failure is audited."""
        now = self._services.clock()
        try:
            address = grammar.address(login)
        except grammar.GrammarError:
            return None
        account = await in_thread(self._services.store.authenticate, address, secret, now)
        return await self._logged_in(talk, account, "password", address)

    async def external(self, talk: Talk) -> Account | None:
        """Find the account of a client certificate: by its key, once its path and revocation are checked."""
        if talk.certificate is None:
            return None
        key = talk.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        dn = talk.certificate.subject.rfc4514_string()
        checker = self._services.trust.path_checker(Usage.TLS_CLIENT)
        verdict = await in_thread(checker, talk.certificate, (), self._services.clock())
        if not verdict.trusted:
            await self._audit("login.refused", {"method": "certificate", "dn": dn, "reason": verdict.reason})
            return None
        account = await in_thread(self._services.store.account_for_client_key, hashlib.sha256(key).digest())
        return await self._logged_in(talk, account, "certificate", dn)

    async def _logged_in(self, talk: Talk, account: Account | None, method: str, name: str) -> Account | None:
        if account is not None and account.active:
            return account
        await self._audit("login.refused", {"method": method, "name": name, "peer": talk.peer})
        return None

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """MAIL FROM is the login's own address; the null sender is left to receipts and checked with the message."""
        account = _owner(talk)
        if sender not in ("", account.address):
            raise await self._refused(talk, replies.SENDER_NOT_OWNED, {"mail_from": sender})
        # A session may last for hours: a mailbox closed meanwhile sends no more.
        current = await in_thread(self._services.store.find_account, account.address)
        if current is None or current.id != account.id or not current.active:
            raise await self._refused(talk, replies.CLOSED_MAILBOX, {"mail_from": sender})

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """A mailbox here, or an address in a domain of the trust space (patients' included)."""
        domain = grammar.domain_of(recipient)
        if domain in self._services.local_domains:
            account = await in_thread(self._services.store.find_account, recipient)
            if account is None:
                raise await self._refused(talk, replies.UNKNOWN_MAILBOX, {"recipient": recipient})
            if not account.active:
                raise await self._refused(talk, replies.CLOSED_MAILBOX, {"recipient": recipient})
            return account
        if await in_thread(self._services.trust.freshness, self._services.clock()) in (Freshness.STALE, Freshness.NONE):
            raise await self._refused(talk, replies.TRUST_UNSURE, {"recipient": recipient})
        if not await in_thread(self._services.trust.is_listed, domain, self._services.clock()):
            raise await self._refused(talk, self._outside(domain), {"recipient": recipient})
        return None

    def _outside(self, domain: str) -> Reply:
        known = replies.OUTSIDE_TRUST_SPACE
        return Reply(known.code, known.enhanced, f"{domain} : {known.text_fr}", f"{domain}: {known.text_en}")

    async def message(self, talk: Talk, transaction: Transaction, content: bytes) -> Reply:
        """Protect, plan, accept: the 250 comes after the commit."""
        services, account, now = self._services, _owner(talk), self._services.clock()
        if not fields.author_is(content, account.address):
            raise await self._refused(talk, replies.FROM_MISMATCH, {}, fields.message_id(content) or "")
        if transaction.sender == "" and not fields.is_notification(content):
            raise await self._refused(
                talk, replies.SENDER_NOT_OWNED, {"mail_from": "<>"}, fields.message_id(content) or ""
            )
        identifier = secrets.token_hex(10)
        raw, message_id = fields.completed(
            fields.cleaned(content, keep_send_code=True), identifier=identifier, hostname=services.hostname, at=now
        )
        recipients = tuple(transaction.recipients)
        handed_over = Acceptance(
            direction=Direction.SUBMISSION,
            principal=account.address,
            mail_from=transaction.sender or "",
            recipients=recipients,
            message_id=message_id,
            received=content,
        )
        # A gateway that lost our 250 repeats itself: its send code may have been used up by the first time.
        before = await in_thread(services.store.accepted_before, handed_over)
        if before is not None:
            return replies.accepted(before.submission_id)
        protected = await in_thread(services.protector.protect, raw, sender=account, recipients=recipients, at=now)
        if isinstance(protected, Refusal):
            reply = Reply(protected.code, protected.enhanced, protected.text_fr, protected.text_en)
            raise await self._refused(talk, reply, {}, message_id, protected.events)
        deposits: tuple[NewDeposit, ...] = ()
        if protected.clear:
            deposits = await in_thread(services.planner.plan, protected.clear, sender=account, at=now)
        trace = fields.received(
            peer="",
            greeted="submission",
            hostname=services.hostname,
            protocol="ESMTPSA",
            identifier=identifier,
            tls=talk.tls_name,
            at=now,
        )
        acceptance = replace(
            handed_over,
            local=_local_copies(protected, transaction.recipients, services.hostname, trace, transaction.sender or ""),
            outgoing=protected.copies,
            deposits=deposits,
            events=(Event("submission.accepted", {"principal": account.address, "peer": talk.peer}), *protected.events),
        )
        _check_complete(acceptance)
        accepted = await in_thread(services.store.accept, acceptance, now)
        return replies.accepted(accepted.submission_id)

    async def _refused(
        self,
        talk: Talk,
        reply: Reply,
        detail: Mapping[str, str],
        message_id: str = "",
        events: tuple[Event, ...] = (),
    ) -> SmtpRefusal:
        """Audit a refusal and answer it, to be raised."""
        principal = talk.account.address if talk.account else ""
        line = {"principal": principal, "peer": talk.peer, "reply": str(reply), **detail}
        await in_thread(
            self._services.store.record,
            (*events, Event("submission.refused", line)),
            message_id=message_id,
            at=self._services.clock(),
        )
        return SmtpRefusal(reply)

    async def _audit(self, name: str, detail: Mapping[str, str]) -> None:
        at: datetime = self._services.clock()
        await in_thread(self._services.store.record, (Event(name, detail),), at=at)


def _owner(talk: Talk) -> Account:
    if talk.account is None:
        raise SmtpRefusal(replies.LOGIN_REQUIRED)
    return talk.account


def _local_copies(
    protected: Protected, recipients: Mapping[str, Account | None], hostname: str, trace: str, mail_from: str
) -> tuple[LocalDelivery, ...]:
    """Copies for mailboxes here. Their content passes `delivered`, as if it had come from outside."""
    results = ("auth=pass smtp.mailfrom=" + (mail_from or "null"),)
    return tuple(
        LocalDelivery(
            account.id,
            address,
            fields.delivered(
                protected.local[address], hostname=hostname, results=results, trace=trace, mail_from=mail_from
            ),
        )
        for address, account in recipients.items()
        if account is not None
    )


def _check_complete(acceptance: Acceptance) -> None:
    """Every recipient leaves exactly once, or nothing does: a proxy that forgot one must not lose a message."""
    served = [delivery.recipient for delivery in acceptance.local]
    served += [recipient for copy in acceptance.outgoing for recipient in copy.recipients]
    if sorted(served) != sorted(acceptance.recipients):
        raise RuntimeError("the protected message does not cover its recipients exactly once")
