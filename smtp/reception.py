"""Reception (port 25): what other operators may hand to us (DESIGN, journey step 6; mssante.md §2).

Invariants: nothing is heard before STARTTLS; a peer speaks only for the domains listed for its own full certificate
name, checked with path and revocation at MAIL FROM; recipients are mailboxes here, nothing is relayed; results written
by others are removed; 250 is said only once the store has committed every copy; a message handed over again, whatever
the recipients it comes back with, is not doubled in any mailbox.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

from cryptography import x509

from directory import Directory, DirectoryError, DirectoryUnavailable
from mailstore import (
    Acceptance,
    Accepted,
    Account,
    Content,
    Direction,
    Event,
    LocalDelivery,
    NewDeposit,
    ScramVerifier,
)
from smtp import dkim, fields, grammar, mdn, metrics, notices, replies, sasl
from smtp.accepting import Acceptor, Accounts
from smtp.content import Budget, Received, is_clear, is_enveloped
from smtp.gate import PeerLimits
from smtp.machine import Body
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Services, in_thread
from smtp.session import Decided, Talk, Transaction
from trustspace import Decision
from trustspace.dn import name_of

WAKE_EVERY = 10.0
"""Seconds between two looks at what waits for an operator that keeps calling."""
DECISION_KEPT = 1.0
"""Seconds for which a peer that was allowed stays so on its connection: the trust space looks at its files no more often."""
_PEERS_KEPT = 4096
SEARCHED = 32 * 1024 * 1024
"""Octets above which a clear message is not searched for documents to deposit (the default limit is below)."""
_FEW = 10
_SHORT = 16 * 1024
"""Recipients, and octets of header, of a message that others may wait for."""


class Reception:
    """The handler of port 25."""

    service = "reception"
    logins: tuple[str, ...] = ()
    repairs = False

    def __init__(self, services: Services) -> None:
        self._services = services
        self._budget = Budget(services.limits.memory)
        self._peers = PeerLimits(services.limits)
        self._woken: dict[str, float] = {}
        self._acceptor = Acceptor(services)
        self._accounts = Accounts(services)

    async def claimed(self, talk: Talk, claim: sasl.Claim) -> Account | None:
        """No login here."""
        return None

    def verifier(self, login: str) -> ScramVerifier:
        """No login here."""
        raise SmtpRefusal(replies.NOT_IMPLEMENTED)

    def secured(self, talk: Talk) -> None:
        """Count the operator's connections, by the name it has a certificate for. Raises SmtpRefusal."""
        if talk.certificate is None:
            return
        talk.counted = talk.peer_name
        if not self._peers.connected(talk.peer_name):
            metrics.TURNED_AWAY.labels(self.service, "peer").inc()
            raise SmtpRefusal(replies.TOO_MANY_CONNECTIONS, closing=True)

    def closed(self, talk: Talk) -> None:
        """The operator has one connection less."""
        if talk.counted:
            self._peers.gone(talk.counted)
            talk.counted = ""

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """The peer's certificate must be listed for the sender's domain; for the null sender, for any domain."""
        certificate = talk.certificate
        if certificate is None:
            raise await self._refused(talk, replies.NO_CERTIFICATE, {"mail_from": sender or "<>"})
        domain = grammar.domain_of(sender) if sender else await in_thread(self._any_domain, certificate)
        decision = await self._decided(talk, certificate, domain)
        metrics.TRUST.labels("reception", decision.rule).inc()
        if not decision.allowed:
            detail = {"mail_from": sender or "<>", "rule": decision.rule, "list": decision.list_digest}
            raise await self._refused(talk, refusal_reply(decision), detail)
        if not self._peers.may_send(talk.peer_name, asyncio.get_running_loop().time()):
            raise await self._refused(talk, replies.TOO_FAST, {"mail_from": sender or "<>"})
        transaction.facts["list"] = decision.list_digest
        transaction.facts["domain"] = domain
        await self._wake(talk.peer_name, certificate)

    async def _decided(self, talk: Talk, certificate: x509.Certificate, domain: str) -> Decision:
        """May this peer speak for this domain? Asked in a thread of its own: an answer may take a question to the network."""
        now, trust, known = asyncio.get_running_loop().time(), self._services.trust, talk.decided
        in_force = trust.in_force
        fresh = known is not None and now - known.at < DECISION_KEPT
        if known is not None and fresh and known.domain == domain and known.in_force is in_force:
            return known.decision
        decision = await in_thread(trust.authorise, certificate, domain, self._services.clock(), supplied=talk.chain)
        talk.decided = Decided(domain, now, in_force, decision) if decision.allowed else None
        return decision

    async def _wake(self, peer: str, certificate: x509.Certificate) -> None:
        """It reached us, so it may be reached: what waits for it need not wait longer. Looked at now and then only."""
        now = asyncio.get_running_loop().time()
        if now - self._woken.get(peer, -WAKE_EVERY) < WAKE_EVERY:
            return
        if len(self._woken) > _PEERS_KEPT:
            self._woken.clear()
        self._woken[peer] = now
        domains = await in_thread(self._domains, certificate)
        await in_thread(self._services.store.wake_domains, domains, self._services.clock())

    def _domains(self, certificate: x509.Certificate) -> frozenset[str]:
        white_list = self._services.trust.white_list
        return white_list.domains_of(name_of(certificate)) if white_list is not None else frozenset()

    def _any_domain(self, certificate: x509.Certificate) -> str:
        """A domain of this certificate's name, or a name no list can hold: `authorise` then says why it refuses."""
        return min(self._domains(certificate), default="null-sender.invalid")

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """A mailbox here; anything else would be relaying."""
        if grammar.domain_of(recipient) not in self._services.local_domains:
            raise await self._refused(talk, replies.RELAYING_DENIED, {"recipient": recipient})
        account = await self._accounts.find(recipient)
        if account is None:
            raise await self._refused(talk, replies.UNKNOWN_MAILBOX, {"recipient": recipient})
        if not account.active:
            raise await self._refused(talk, replies.CLOSED_MAILBOX, {"recipient": recipient})
        return account

    async def message(self, talk: Talk, transaction: Transaction, received: Received) -> Reply:
        """Open for each mailbox, write the results, accept; 250 once every mailbox has its copy."""
        header = received.header
        message_id = fields.message_id(header) or ""
        if fields.count_received(header) > self._services.limits.received_fields:
            raise await self._refused(talk, replies.LOOP, {"mail_from": transaction.sender or "<>"}, message_id)
        here = {address: account for address, account in transaction.recipients.items() if account is not None}
        if len(here) != len(transaction.recipients):
            raise RuntimeError("a recipient without an account")
        async with self._budget.of(received.size):
            accepted = await self._accepted(talk, transaction, received, here)
        if _is_answered(transaction, header):
            await in_thread(self._tell, transaction, received, accepted[0].submission_id, message_id)
        return replies.accepted(accepted[0].submission_id)

    async def _accepted(
        self, talk: Talk, transaction: Transaction, received: Received, here: Mapping[str, Account]
    ) -> list[Accepted]:
        """What the store answers for each mailbox. Those accepted before another failed are recognised when the message
        comes back."""
        certificate = talk.certificate
        if certificate is None:
            raise SmtpRefusal(replies.NO_CERTIFICATE)
        if self._is_quick(transaction, received, here):

            def prepare() -> list[Acceptance]:
                common = self._results(talk, certificate, transaction, received)
                return self._acceptances(talk, transaction, received, here, common)

            return await self._acceptor.prepared(prepare)
        common = await in_thread(self._results, talk, certificate, transaction, received)
        # A large message is prepared for one mailbox at a time: never held as often as it has recipients.
        groups = [here] if received.stored is None else [{address: account} for address, account in here.items()]
        answers: list[Accepted] = []
        for group in groups:
            ready = await in_thread(self._acceptances, talk, transaction, received, group, common)
            answers += await self._acceptor.accept(ready)
        return answers

    def _is_quick(self, transaction: Transaction, received: Received, here: Mapping[str, Account]) -> bool:
        """Whether a message asks for nothing that may take long (keys, the network, documents): others may wait for it."""
        if received.stored is not None or transaction.options.body is Body.BINARY:
            return False
        if len(here) > _FEW or len(received.header) > _SHORT:
            return False
        services, header = self._services, received.header.lower()
        if b"pkcs7" in header or b"multipart/signed" in header or b".p7" in header:
            return False
        if services.dkim_checker is not None and b"dkim-signature" in header:
            return False
        if any(services.planner.searches(account) for account in here.values()):
            return False
        authors = fields.from_addresses(received.header)
        if len(authors) != 1 or grammar.domain_of(authors[0]) != transaction.facts.get("domain", ""):
            return False
        return services.directory is None or services.directory.remembers(authors[0])

    def _results(
        self, talk: Talk, certificate: x509.Certificate, transaction: Transaction, received: Received
    ) -> tuple[str, ...]:
        """What Authentication-Results says of every copy. Blocking."""
        sender_domain = grammar.domain_of(transaction.sender or "")
        return (
            fields.trust_result(talk.peer_name, sender_domain, transaction.facts["list"]),
            *self._author_results(certificate, received.header, transaction.facts.get("domain", "")),
            *self._dkim(received),
        )

    def _dkim(self, received: Received) -> list[str]:
        """What dkimpy says; a large message without a signature is not read for it."""
        checker = self._services.dkim_checker
        if checker is None or not fields.has(received.header, "dkim-signature"):
            return ["dkim=none"] if checker is not None else []
        if received.size > dkim.MAX_SIZE:
            return ["dkim=neutral reason=too-large"]
        return checker.results(received.whole(self._services.store))

    def _acceptances(
        self,
        talk: Talk,
        transaction: Transaction,
        received: Received,
        recipients: Mapping[str, Account],
        common: tuple[str, ...],
    ) -> list[Acceptance]:
        """One acceptance a mailbox: a peer that lost our 250 may come back with these recipients grouped otherwise, and
        each mailbox must still recognise what it has. Blocking."""
        dn = talk.peer_name
        accepted = Event("reception.accepted", {"peer": talk.peer, "dn": dn, "list": transaction.facts.get("list", "")})
        message_id = fields.message_id(received.header) or ""
        found = []
        for address, account in recipients.items():
            content, events, deposits = self._opened(talk, transaction, received, account, common)
            found.append(
                Acceptance(
                    direction=Direction.RECEPTION,
                    principal=dn,
                    mail_from=transaction.sender or "",
                    recipients=(address,),
                    message_id=message_id,
                    received=received.content,
                    local=(LocalDelivery(account.id, address, content),),
                    deposits=deposits,
                    events=(accepted, *events),
                )
            )
        return found

    def _opened(
        self,
        talk: Talk,
        transaction: Transaction,
        received: Received,
        account: Account,
        common: tuple[str, ...],
    ) -> tuple[Content, tuple[Event, ...], tuple[NewDeposit, ...]]:
        """What enters the mailbox, opened when the key is held here, and the deposits it calls for. A large message with
        nothing to open, verify or search passes without being held in memory."""
        services, now, sender = self._services, self._services.clock(), transaction.sender or ""
        trace = fields.received(
            peer=talk.peer,
            greeted=talk.greeted,
            hostname=services.hostname,
            protocol="UTF8SMTPS" if transaction.options.utf8 else "ESMTPS",
            identifier=secrets.token_hex(10),
            tls=talk.tls_name,
            at=now,
        )

        def on_top(content: bytes, results: tuple[str, ...]) -> bytes:
            return fields.delivered(
                content, hostname=services.hostname, results=(*results, *common), trace=trace, mail_from=sender
            )

        if received.stored is not None and transaction.options.body is not Body.BINARY:
            sealed = not services.opens_for(account.address) and is_enveloped(received, services.store)
            unread = received.size > SEARCHED or not services.planner.searches(account)
            if sealed or (unread and is_clear(received)):
                results = ("smime=neutral reason=sealed",) if sealed else ("smime=none",)
                return received.rebuilt(services.store, on_top(received.header, results)), (), ()
        raw = received.whole(services.store)
        if transaction.options.body is Body.BINARY:
            try:
                raw = fields.fit_lines(raw)
            except ValueError:
                raise SmtpRefusal(replies.NO_CONVERSION) from None
        came = raw
        raw = fields.cleaned(raw, keep_send_code=False)
        opened = services.protector.open(raw, recipient=account, sender=sender, at=now)
        deposits: tuple[NewDeposit, ...] = ()
        if opened.clear is not None:
            deposits = services.planner.plan_received(
                opened.clear, recipient=account, at=now, mail_from=sender, original=lambda: came
            )
        return on_top(opened.content, opened.results), opened.events, deposits

    def _tell(self, transaction: Transaction, received: Received, submission_id: str, message_id: str) -> None:
        """After the commit: "delivered" notices that were asked for, and what a receipt answers. A crash before loses a
        courtesy, never a message."""
        services, now = self._services, self._services.clock()
        try:
            recipients = list(transaction.recipients)
            notices.tell_delivered(services, transaction, recipients, received.header, submission_id, message_id, now)
            mdn.correlate(services.store, received, transaction.sender or "", now)
        except Exception as error:
            replies.reply_for(error)

    def _author_results(self, certificate: x509.Certificate, header: bytes, spoken_for: str) -> list[str]:
        """What readers see is From, not the envelope: say whether the peer may speak for it, and whether it is published.
        Blocking."""
        authors = fields.from_addresses(header)
        if len(authors) != 1:
            return ["x-mss-from=fail reason=several-or-no-authors"]
        domain = grammar.domain_of(authors[0])
        allowed = domain == spoken_for  # that was decided at MAIL FROM
        if not allowed:
            allowed = self._services.trust.authorise(certificate, domain, self._services.clock()).allowed
        results = [f"x-mss-from={'pass' if allowed else 'fail'} header.from={fields.token(domain)}"]
        if self._services.directory is not None:
            results.append(f"x-mss-directory={_published(self._services.directory, authors[0])}")
        return results

    async def _refused(self, talk: Talk, reply: Reply, detail: Mapping[str, str], message_id: str = "") -> SmtpRefusal:
        """Audit a refusal and answer it, to be raised."""
        dn = talk.peer_name
        line = {"peer": talk.peer, "dn": dn, "reply": str(reply), **detail}
        await in_thread(
            self._services.store.record,
            (Event("reception.refused", line),),
            message_id=message_id,
            at=self._services.clock(),
        )
        return SmtpRefusal(reply)


def _is_answered(transaction: Transaction, header: bytes) -> bool:
    """Whether somebody waits to hear of this message: asked for it, or is answered by it."""
    asked = any("SUCCESS" in one.notify for one in transaction.asked.values())
    return asked or b"multipart/report" in header.lower()


def refusal_reply(decision: Decision) -> Reply:
    """The reply of a refused trust decision: final 550 5.7.1, or 451 4.7.5 when it may end by itself."""
    code, enhanced = (451, "4.7.5") if decision.temporary else (550, "5.7.1")
    return Reply(code, enhanced, decision.reason_fr, decision.reason_en)


def _published(directory: Directory, address: str) -> str:
    """A look-up that cannot answer takes nothing away from the reception: the result says so."""
    try:
        return "pass" if directory.by_address(address) is not None else "none"
    except (DirectoryUnavailable, DirectoryError):
        return "temperror"
