"""Reception (port 25): what other operators may hand to us (DESIGN, journey step 6; mssante.md §2).

Invariants: nothing is heard before STARTTLS; a peer speaks only for the domains listed for its own full certificate
name, checked with path and revocation at MAIL FROM; recipients are mailboxes here, nothing is relayed; results written
by others are removed; 250 is said only once the store has committed every copy; a message handed over again, whatever
the recipients it comes back with, is not doubled in any mailbox.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from cryptography import x509

from directory import Directory, DirectoryError, DirectoryUnavailable
from mailstore import Acceptance, Account, Direction, Event, LocalDelivery
from smtp import fields, grammar, replies
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Services, in_thread
from smtp.shell import Talk, Transaction
from trustspace import Decision
from trustspace.dn import name_of


class Reception:
    """The handler of port 25."""

    login_offered = False

    def __init__(self, services: Services) -> None:
        self._services = services

    async def password(self, talk: Talk, login: str, secret: str) -> Account | None:
        """No login here."""
        return None

    async def external(self, talk: Talk) -> Account | None:
        """No login here."""
        return None

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """The peer's certificate must be listed for the sender's domain; for the null sender, for any domain."""
        certificate = talk.certificate
        if certificate is None:
            raise await self._refused(talk, replies.NO_CERTIFICATE, {"mail_from": sender or "<>"})
        domain = grammar.domain_of(sender) if sender else await in_thread(self._any_domain, certificate)
        decision = await in_thread(self._services.trust.authorise, certificate, domain, self._services.clock())
        if not decision.allowed:
            detail = {"mail_from": sender or "<>", "rule": decision.rule, "list": decision.list_digest}
            raise await self._refused(talk, refusal_reply(decision), detail)
        transaction.facts["list"] = decision.list_digest

    def _any_domain(self, certificate: x509.Certificate) -> str:
        """A domain of this certificate's name, or a name no list can hold: `authorise` then says why it refuses."""
        white_list = self._services.trust.white_list
        domains = white_list.domains_of(name_of(certificate)) if white_list is not None else frozenset()
        return min(domains, default="null-sender.invalid")

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """A mailbox here; anything else would be relaying."""
        if grammar.domain_of(recipient) not in self._services.local_domains:
            raise await self._refused(talk, replies.RELAYING_DENIED, {"recipient": recipient})
        account = await in_thread(self._services.store.find_account, recipient)
        if account is None:
            raise await self._refused(talk, replies.UNKNOWN_MAILBOX, {"recipient": recipient})
        if not account.active:
            raise await self._refused(talk, replies.CLOSED_MAILBOX, {"recipient": recipient})
        return account

    async def message(self, talk: Talk, transaction: Transaction, content: bytes) -> Reply:
        """Open for each mailbox, write the results, accept; 250 once every mailbox has its copy."""
        services, now, certificate = self._services, self._services.clock(), talk.certificate
        sender = transaction.sender or ""
        if certificate is None:
            raise SmtpRefusal(replies.NO_CERTIFICATE)
        message_id = fields.message_id(content) or ""
        if fields.count_received(content) > services.limits.received_fields:
            raise await self._refused(talk, replies.LOOP, {"mail_from": sender}, message_id)
        identifier = secrets.token_hex(10)
        trace = fields.received(
            peer=talk.peer,
            greeted=talk.greeted,
            hostname=services.hostname,
            protocol="ESMTPS",
            identifier=identifier,
            tls=talk.tls_name,
            at=now,
        )
        common = [fields.trust_result(certificate, grammar.domain_of(sender), transaction.facts.get("list", ""))]
        common += await self._author_results(certificate, content)
        raw = fields.cleaned(content, keep_send_code=False)
        received = Event(
            "reception.accepted",
            {"peer": talk.peer, "dn": certificate.subject.rfc4514_string(), "list": transaction.facts.get("list", "")},
        )
        identifiers: list[str] = []
        for address, account in transaction.recipients.items():
            if account is None:
                raise RuntimeError("a recipient without an account")
            opened = await in_thread(services.protector.open, raw, recipient=account, sender=sender, at=now)
            final = await in_thread(
                fields.delivered,
                opened.content,
                hostname=services.hostname,
                results=(*opened.results, *common),
                trace=trace,
                mail_from=sender,
            )
            # One acceptance a mailbox: a peer that lost our 250 may come back with these recipients grouped otherwise,
            # and each mailbox must still recognise what it has.
            acceptance = Acceptance(
                direction=Direction.RECEPTION,
                principal=received.detail["dn"],
                mail_from=sender,
                recipients=(address,),
                message_id=message_id,
                received=content,
                local=(LocalDelivery(account.id, address, final),),
                events=(received, *opened.events),
            )
            identifiers.append((await in_thread(services.store.accept, acceptance, now)).submission_id)
        return replies.accepted(identifiers[0])

    async def _author_results(self, certificate: x509.Certificate, content: bytes) -> list[str]:
        """What readers see is From, not the envelope: say whether the peer may speak for it, and whether it is published."""
        authors = fields.from_addresses(content)
        if len(authors) != 1:
            return ["x-mss-from=fail reason=several-or-no-authors"]
        domain = grammar.domain_of(authors[0])
        decision = await in_thread(self._services.trust.authorise, certificate, domain, self._services.clock())
        results = [f"x-mss-from={'pass' if decision.allowed else 'fail'} header.from={fields.token(domain)}"]
        if self._services.directory is not None:
            results.append(f"x-mss-directory={await in_thread(_published, self._services.directory, authors[0])}")
        return results

    async def _refused(self, talk: Talk, reply: Reply, detail: Mapping[str, str], message_id: str = "") -> SmtpRefusal:
        """Audit a refusal and answer it, to be raised."""
        dn = talk.certificate.subject.rfc4514_string() if talk.certificate is not None else ""
        line = {"peer": talk.peer, "dn": dn, "reply": str(reply), **detail}
        await in_thread(
            self._services.store.record,
            (Event("reception.refused", line),),
            message_id=message_id,
            at=self._services.clock(),
        )
        return SmtpRefusal(reply)


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
