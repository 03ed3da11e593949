"""Submission (ports 465 and 587): what a login of ours may send, and to whom (DESIGN, journey steps 1, 2, 4).

Invariants: 250 is said only once the store has committed message, recipients, deposits and audit together; a refused
message leaves an audit line and nothing else; MAIL FROM, From, Sender and Reply-To are the login's own mailbox or one that
was delegated to it; every recipient is a mailbox here or in a domain of the white list in force.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from ihe.ins import is_valid_matricule
from mailstore import (
    Acceptance,
    Account,
    Content,
    Direction,
    Event,
    LocalDelivery,
    NewDeposit,
    OutgoingCopy,
    ScramVerifier,
)
from proxy.model import Protected, Refusal
from smtp import dkim, fields, grammar, labels, mdn, notices, receipts, replies, sasl
from smtp.accepting import Acceptor, Accounts
from smtp.content import Budget, Received, is_enveloped
from smtp.identities import Identities
from smtp.replies import Reply, SmtpRefusal
from smtp.services import DkimSigner, Services, in_thread
from smtp.session import Talk, Transaction
from trustspace import Freshness


class Submission:
    """The handler of both submission ports."""

    service = "submission"
    repairs = True

    def __init__(self, services: Services) -> None:
        self._services = services
        self._budget = Budget(services.limits.memory)
        self._acceptor = Acceptor(services)
        self._accounts = Accounts(services)
        self._identities = Identities(services)
        without = set() if services.bearer is not None else {"OAUTHBEARER", "XOAUTH2"}
        self.logins = tuple(one for one in sasl.MECHANISMS if one not in without)

    # ---- who are you

    def secured(self, talk: Talk) -> None:
        """Anybody may try to log in."""

    def closed(self, talk: Talk) -> None:
        """Nothing is held for a connection."""

    def verifier(self, login: str) -> ScramVerifier:
        """The SCRAM verifier of a login; a decoy for a login unknown, closed, or without password."""
        return self._identities.verifier(login)

    async def claimed(self, talk: Talk, claim: sasl.Claim) -> Account | None:
        """The account that a SASL claim speaks for; every failure is audited."""
        return await self._identities.claimed(talk, claim)

    # ---- the envelope

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """MAIL FROM is the login's own address or a delegation's; the null sender is left to receipts and checked with
        the message."""
        account, store = _owner(talk), self._services.store
        # A session may last for hours: a mailbox closed meanwhile sends no more.
        current = await self._accounts.look(account.address)
        if current is None or current.id != account.id or not current.active:
            raise await self._refused(talk, replies.CLOSED_MAILBOX, {"mail_from": sender})
        if sender not in ("", account.address) and sender not in await in_thread(store.may_send_as, account.id):
            raise await self._refused(talk, replies.SENDER_NOT_OWNED, {"mail_from": sender})

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """A mailbox here, or an address in a domain of the trust space (patients' included)."""
        domain, rules = grammar.domain_of(recipient), self._services.rules
        if domain in rules.patient_domains:
            # ECO.2.2.6: a patient's address is made of a qualified INS, and of nothing else.
            if not is_valid_matricule(recipient.partition("@")[0].upper()):
                raise await self._refused(talk, replies.BAD_PATIENT, {"recipient": "@" + domain})
            if transaction.options.size > rules.patient_size:
                raise await self._refused(talk, replies.TOO_BIG_FOR_PATIENT, {"recipient": "@" + domain})
        if domain in self._services.local_domains:
            account = await self._accounts.find(recipient)
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

    # ---- the message

    async def message(self, talk: Talk, transaction: Transaction, received: Received) -> Reply:
        """Protect, plan, accept: the 250 comes after the commit."""
        services, account = self._services, _owner(talk)
        await self._check(talk, transaction, received)
        handed_over = Acceptance(
            direction=Direction.SUBMISSION,
            principal=account.address,
            mail_from=transaction.sender or "",
            recipients=tuple(transaction.recipients),
            message_id=fields.message_id(received.header) or "",
            received=received.content,
        )
        # A gateway that lost our 250 repeats itself: its send code may have been used up by the first time.
        before = await in_thread(services.store.accepted_before, handed_over)
        if before is not None:
            return replies.accepted(before.submission_id)
        async with self._budget.of(received.size):
            accepted = await self._protected(talk, transaction, received, handed_over)
        return replies.accepted(accepted)

    async def _check(self, talk: Talk, transaction: Transaction, received: Received) -> None:
        """What the header may say (the body is the proxy's business)."""
        services, account, header = self._services, _owner(talk), received.header
        message_id = fields.message_id(header) or ""
        allowed = {account.address, *await in_thread(services.store.may_send_as, account.id)}
        if not fields.authors_are(header, allowed):
            raise await self._refused(talk, replies.FROM_MISMATCH, {}, message_id)
        if transaction.sender == "" and not fields.is_notification(header):
            raise await self._refused(talk, replies.SENDER_NOT_OWNED, {"mail_from": "<>"}, message_id)
        if fields.count_received(header) > services.limits.received_fields:
            raise await self._refused(talk, replies.LOOP, {}, message_id)
        if not fields.mes_is_fit(header):
            raise await self._refused(talk, replies.BAD_MES, {}, message_id)
        to_patient = any(grammar.domain_of(one) in services.rules.patient_domains for one in transaction.recipients)
        if to_patient and received.size > services.rules.patient_size:
            raise await self._refused(talk, replies.TOO_BIG_FOR_PATIENT, {}, message_id)

    def _completed(self, header: bytes, account: Account, identifier: str, now: datetime) -> tuple[bytes, str]:
        """The header that leaves, and its Message-ID: ours removed, what is missing added (RFC 6409 §8, ECO.2.2.7)."""
        services = self._services
        cleaned = fields.cleaned(header, keep_send_code=True)
        completed, message_id = fields.completed(
            cleaned, identifier=identifier, hostname=services.hostname, at=now, nil=services.rules.nil
        )
        return labels.with_from_label(completed, account, services.directory), message_id

    async def _protected(
        self, talk: Talk, transaction: Transaction, received: Received, handed_over: Acceptance
    ) -> str:
        services, account, now = self._services, _owner(talk), self._services.clock()
        identifier = secrets.token_hex(10)
        header, message_id = await in_thread(self._completed, received.header, account, identifier, now)
        # An envelope is let through as it is: a large one is never held in memory.
        if received.stored is not None and await in_thread(is_enveloped, received, services.store):
            protected: Protected | None = None
            events: tuple[Event, ...] = (Event("message.encrypted_by_sender"),)
            deposits: tuple[NewDeposit, ...] = ()
        else:
            raw = await in_thread(self._fit, received, header, transaction)
            protected = await self._protect(talk, transaction, raw, message_id)
            events, deposits = protected.events, ()
            if protected.clear:
                protected = await in_thread(self._labelled, protected)
                # Untouched, it is given back as it came; otherwise a send code was taken out, which must not come back.
                untouched, handed_in = protected.original == raw, protected.original
                deposits = await in_thread(
                    services.planner.plan,
                    protected.clear,
                    sender=account,
                    at=now,
                    original=lambda: received.whole(services.store) if untouched else handed_in,
                )
        trace = fields.received(
            peer="",
            greeted="submission",
            hostname=services.hostname,
            protocol="UTF8SMTPSA" if transaction.options.utf8 else "ESMTPSA",
            identifier=identifier,
            tls=talk.tls_name,
            at=now,
        )
        acceptance = replace(
            handed_over,
            message_id=message_id,
            local=await in_thread(self._local, protected, received, header, transaction, trace),
            outgoing=await in_thread(self._outgoing, protected, received, header, transaction, account, now),
            deposits=deposits,
            events=(Event("submission.accepted", {"principal": account.address, "peer": talk.peer}), *events),
            receipts=receipts.wanted(header, transaction, services.rules.receipt_deadline, now),
        )
        _check_complete(acceptance)
        if protected is not None and protected.confirmation:
            content = fields.delivered(
                protected.confirmation, hostname=services.hostname, results=("auth=pass",), trace=trace, mail_from=""
            )
            told = LocalDelivery(account.id, account.address, content)
            acceptance = replace(acceptance, local=(*acceptance.local, told))
        (accepted,) = await self._acceptor.accept([acceptance])
        if not accepted.duplicate:
            await in_thread(self._tell, transaction, received, header, accepted.submission_id, message_id, now)
        return accepted.submission_id

    def _fit(self, received: Received, header: bytes, transaction: Transaction) -> bytes:
        """The whole message, its binary parts and over-long lines re-encoded. Raises SmtpRefusal when that cannot be."""
        raw = received.rebuilt(self._services.store, header) if received.stored is None else b""
        if not isinstance(raw, bytes) or not raw:
            raw = header + received.whole(self._services.store)[len(received.header) :]
        try:
            return fields.fit_lines(raw)
        except ValueError:
            raise SmtpRefusal(replies.NO_CONVERSION) from None

    async def _protect(self, talk: Talk, transaction: Transaction, raw: bytes, message_id: str) -> Protected:
        services, account = self._services, _owner(talk)
        answer = await in_thread(
            services.protector.protect,
            raw,
            sender=account,
            recipients=tuple(transaction.recipients),
            at=services.clock(),
            peer=talk.peer,
        )
        if isinstance(answer, Refusal):
            await asyncio.sleep(answer.delay)  # a wrong send code is answered more and more slowly
            reply = Reply(answer.code, answer.enhanced, answer.text_fr, answer.text_en)
            raise await self._refused(talk, reply, {}, message_id, answer.events)
        return answer

    def _labelled(self, protected: Protected) -> Protected:
        """X-MSS-CODECDA and X-MSS-INS from the documents found, on every copy that has none (ECO.2.4.1, ECO.2.4.2)."""
        found = self._services.planner.labels(protected.clear)
        if not found:
            return protected
        local = {name: labels.with_missing(content, found) for name, content in protected.local.items()}
        copies = tuple(
            replace(copy, content=labels.with_missing(copy.content, found)) if isinstance(copy.content, bytes) else copy
            for copy in protected.copies
        )
        return replace(protected, local=local, copies=copies)

    def _local(
        self,
        protected: Protected | None,
        received: Received,
        header: bytes,
        transaction: Transaction,
        trace: str,
    ) -> tuple[LocalDelivery, ...]:
        """Copies for mailboxes here. Their content passes `delivered`, as if it had come from outside."""
        mail_from = transaction.sender or ""
        results = ("auth=pass smtp.mailfrom=" + (mail_from or "null"),)

        def on_top(content: bytes) -> bytes:
            return fields.delivered(
                content, hostname=self._services.hostname, results=results, trace=trace, mail_from=mail_from
            )

        found = []
        for address, account in transaction.recipients.items():
            if account is None:
                continue
            content: Content = (
                received.rebuilt(self._services.store, on_top(header))
                if protected is None
                else on_top(protected.local[address])
            )
            found.append(LocalDelivery(account.id, address, content))
        return tuple(found)

    def _outgoing(
        self,
        protected: Protected | None,
        received: Received,
        header: bytes,
        transaction: Transaction,
        account: Account,
        now: datetime,
    ) -> tuple[OutgoingCopy, ...]:
        """What leaves: signed for our domain when we have keys, a copy for each set of options of the envelope."""
        if protected is None:
            away = tuple(one for one, local in transaction.recipients.items() if local is None)
            clean = fields.cleaned(header, keep_send_code=False)
            copies: tuple[OutgoingCopy, ...] = ()
            if away:
                copies = (OutgoingCopy(away, received.rebuilt(self._services.store, clean)),)
        else:
            copies = protected.copies
        domain, signer = grammar.domain_of(account.address), self._services.dkim_signer
        found = []
        for copy in copies:
            content = copy.content if signer is None else self._signed(signer, copy.content, domain, now)
            found += notices.by_options(replace(copy, content=content), transaction)
        return tuple(found)

    def _signed(self, signer: DkimSigner, content: Content, domain: str, now: datetime) -> Content:
        """A content with its DKIM fields on top; one too large to be read whole leaves without, as it came."""
        if isinstance(content, bytes):
            return b"".join(signer.fields(content, domain, now)) + content
        if content.size > dkim.MAX_SIZE:
            return content
        store = self._services.store
        whole = store.read_blob(content.blob)
        signature = signer.fields(whole, domain, now)
        del whole
        if not signature:
            return content
        writer = store.spool()
        try:
            writer.write(b"".join(signature))
            for piece in store.pieces(content.blob):
                writer.write(piece)
        except BaseException:
            writer.abort()
            raise
        signed = writer.commit()
        store.discard(content)
        return signed

    def _tell(
        self,
        transaction: Transaction,
        received: Received,
        header: bytes,
        submission_id: str,
        message_id: str,
        now: datetime,
    ) -> None:
        """After the commit: "delivered" notices for mailboxes here, and what a receipt among us answers. A crash before
        loses a courtesy, never a message."""
        try:
            done = [one for one, account in transaction.recipients.items() if account is not None]
            notices.tell_delivered(self._services, transaction, done, header, submission_id, message_id, now)
            mdn.correlate(self._services.store, received, transaction.sender or "", now)
        except Exception as error:
            replies.reply_for(error)

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


def _owner(talk: Talk) -> Account:
    if talk.account is None:
        raise SmtpRefusal(replies.LOGIN_REQUIRED)
    return talk.account


def _check_complete(acceptance: Acceptance) -> None:
    """Every recipient leaves exactly once, or nothing does: a proxy that forgot one must not lose a message."""
    served = [delivery.recipient for delivery in acceptance.local]
    served += [recipient for copy in acceptance.outgoing for recipient in copy.recipients]
    if sorted(served) != sorted(acceptance.recipients):
        raise RuntimeError("the protected message does not cover its recipients exactly once")
