"""Whose login a SASL claim is: password, SCRAM, client certificate, bearer token.

Invariants: a mailbox is known by what it proves (its password, the full key of its certificate, its holder's token), never by
what it says; a closed mailbox logs in no more; every failure is audited, and the client hears nothing of its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailstore import Account, Event, ScramVerifier
from smtp import grammar, metrics, replies, sasl
from smtp.replies import SmtpRefusal
from smtp.services import Services, in_thread
from smtp.session import Talk
from trustspace import Usage


class Identities:
    """The logins of this operator."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def verifier(self, login: str) -> ScramVerifier:
        """The SCRAM verifier of a login; a decoy for a login unknown, closed, or without password."""
        store = self._services.store
        try:
            address = grammar.address(login)
        except grammar.GrammarError:
            return store.decoy_scram(login)
        return store.scram(address) or store.decoy_scram(address)

    async def claimed(self, talk: Talk, claim: sasl.Claim) -> Account | None:
        """The account that a SASL claim speaks for; every failure is audited."""
        match claim:
            case sasl.Password(login, secret):
                return await self._password(talk, login, secret)
            case sasl.External(asked):
                return await self._external(talk, asked)
            case sasl.Bearer(login, token):
                return await self._bearer(talk, login, token)
            case sasl.Proven(login):
                account = await in_thread(self._services.store.find_account, login.lower())
                return await self._logged_in(talk, account, "scram", login)

    async def _password(self, talk: Talk, login: str, secret: str) -> Account | None:
        try:
            address = grammar.address(login)
        except grammar.GrammarError:
            return None
        account = await in_thread(self._services.store.authenticate, address, secret, self._services.clock())
        return await self._logged_in(talk, account, "password", address)

    async def _external(self, talk: Talk, asked: str) -> Account | None:
        """Find the account of a client certificate: by its key, once its path and revocation are checked."""
        if talk.certificate is None:
            return None
        key = talk.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        dn = talk.certificate.subject.rfc4514_string()
        checker = self._services.trust.path_checker(Usage.TLS_CLIENT)
        verdict = await in_thread(checker, talk.certificate, talk.chain, self._services.clock())
        if not verdict.trusted:
            await self._audit("login.refused", {"method": "certificate", "dn": dn, "reason": verdict.reason})
            return None
        account = await in_thread(self._services.store.account_for_client_key, hashlib.sha256(key).digest())
        if account is not None and asked not in ("", account.address):
            account = None  # RFC 4422 appendix A: only one's own identity is granted
        return await self._logged_in(talk, account, "certificate", dn)

    async def _bearer(self, talk: Talk, login: str, token: str) -> Account | None:
        """The mailbox named, when the token speaks for its holder (mssante.md §3.2)."""
        services = self._services
        if services.bearer is None:
            return None
        try:
            address = grammar.address(login)
            account = await in_thread(services.bearer, address, token, services.clock())
        except services.bearer_away:
            raise SmtpRefusal(replies.LOGIN_UNSURE) from None
        except grammar.GrammarError:
            return await self._logged_in(talk, None, "bearer", login[:254])
        return await self._logged_in(talk, account, "bearer", address)

    async def _logged_in(self, talk: Talk, account: Account | None, method: str, name: str) -> Account | None:
        if account is not None and account.active:
            return account
        await self._audit("login.refused", {"method": method, "name": name, "peer": talk.peer})
        return None

    async def _audit(self, name: str, detail: Mapping[str, str]) -> None:
        metrics.LOGINS.labels(detail.get("method", ""), "audited").inc()
        at: datetime = self._services.clock()
        await in_thread(self._services.store.record, (Event(name, detail),), at=at)
