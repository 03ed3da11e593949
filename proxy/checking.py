"""The life of send codes: issue, rotation, and the check of one shown with a message.

Invariants: every refusal of a code reads the same, whatever was wrong with it; a wrong code is counted, slows the answer
down more and more, and after `FAILURES_ALLOWED` in ten minutes no code of that mailbox is looked at; the log and the
audit trail get identifiers and fixed words, never what was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from mailstore import Account, Event, SendCode, Store, StoreError
from proxy import codes
from proxy.model import Refusal
from proxy.scope import BadScope, Scope

FAILURES_ALLOWED = 5
LONGEST_DELAY = 30.0
_DRAWS = 20
_log = structlog.get_logger(__name__)


class CodeState(StrEnum):
    """What a code shown with a message is worth. STALE: genuine, but expired, revoked or used up."""

    NONE = "none"
    GOOD = "good"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """A check that refuses nothing by itself. `code_id` is "" without a genuine code."""

    state: CodeState
    code_id: str = ""


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """A new code with what was kept of it; `text` is shown once."""

    code_id: str
    text: str = field(repr=False)
    expires_at: datetime
    scope: Scope


class CodeDesk:
    """Issues, rotates and checks the codes of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def issue(
        self,
        account: Account,
        *,
        at: datetime,
        life: timedelta,
        max_uses: int | None = None,
        scope: Scope | None = None,
        label: str = "",
    ) -> IssuedCode:
        """A new code for a mailbox or gateway; earlier ones stay in force. Raises mailstore.StoreError."""
        scope, expires_at = scope or Scope(), at + life
        for left in reversed(range(_DRAWS)):
            code = codes.new_code()
            try:
                self._store.add_send_code(
                    account.id,
                    code.code_id,
                    code.digest,
                    expires_at,
                    max_uses,
                    at,
                    label=label,
                    scope=scope.to_json(),
                )
            except StoreError:
                # Identifiers are short: another code may have this one. A store that cannot answer raises at the end.
                if not left:
                    raise
                continue
            detail = {"account": account.address, "code_id": code.code_id, "scope": scope.to_json(), "label": label}
            self._store.record((Event("code.issued", detail),), at=at)
            return IssuedCode(code.code_id, code.text, expires_at, scope)
        raise AssertionError("unreachable")

    def rotate(
        self, old: SendCode, account: Account, *, at: datetime, life: timedelta, overlap: timedelta
    ) -> IssuedCode:
        """A new code with the limits, scope and label of `old`, which ends after `overlap` (at its own end if earlier)."""
        issued = self.issue(
            account, at=at, life=life, max_uses=old.max_uses, scope=Scope.from_json(old.scope), label=old.label
        )
        self._store.shorten_send_code(old.code_id, at + overlap)
        detail = {"account": account.address, "code_id": old.code_id, "replaced_by": issued.code_id}
        self._store.record((Event("code.rotated", detail),), at=at)
        return issued

    def revoke(self, code_id: str, *, at: datetime) -> None:
        """Revoke a code, at once. Raises mailstore.StoreError when it is unknown."""
        self._store.revoke_send_code(code_id, at)
        self._store.record((Event("code.revoked", {"code_id": code_id}),), at=at)

    def reopen(self, account: Account, *, at: datetime) -> int:
        """Open again a mailbox closed by wrong codes, before its ten minutes have passed; returns how many are forgotten."""
        forgotten = self._store.clear_code_failures(account.id)
        self._store.record((Event("code.reopened", {"account": account.address, "failures": str(forgotten)}),), at=at)
        return forgotten

    def check(
        self, shown: Sequence[str], *, sender: Account, recipients: Sequence[str], peer: str, at: datetime
    ) -> CodeCheck | Refusal:
        """What the codes given with a message are worth. Does not count a use: see `use`."""
        if not shown:
            return CodeCheck(CodeState.NONE)
        if self._store.count_code_failures(sender.id, at) >= FAILURES_ALLOWED:
            return _closed(sender)
        if len(shown) > 1:
            return _several(sender)
        letters = codes.normalise(shown[0])
        found = self._find(letters)
        if found is None:
            return self.refuse(sender, "malformed" if letters is None else "unknown", at)
        objection = self._objection(found, sender, peer, recipients)
        if objection:
            return self.refuse(sender, objection, at, found.code_id)
        used_up = found.max_uses is not None and found.uses >= found.max_uses
        stale = found.revoked_at is not None or found.expires_at <= at or used_up
        return CodeCheck(CodeState.STALE if stale else CodeState.GOOD, found.code_id)

    def use(self, code_id: str, at: datetime) -> bool:
        """Count one use of a good code; False when it was used up, revoked or expired meanwhile."""
        return self._store.use_send_code(code_id, at)

    def refuse(self, sender: Account, reason: str, at: datetime, code_id: str = "") -> Refusal:
        """Count a wrong code and refuse, more slowly each time. `reason` is a fixed word, for the audit trail."""
        failures = self._store.add_code_failure(sender.id, at)
        detail = {"account": sender.address, "reason": reason, "code_id": code_id, "failures": str(failures)}
        events = [Event("code.refused", detail)]
        _log.warning("send code refused", account=sender.address, reason=reason, attempts=failures)
        if failures == FAILURES_ALLOWED:
            events.append(Event("code.alarm", detail))
            _log.error("send codes closed after repeated failures", account=sender.address, attempts=failures)
        delay = min(2.0 ** (failures - 1), LONGEST_DELAY)
        return refused(events=tuple(events), delay=delay)

    def _find(self, letters: str | None) -> SendCode | None:
        if letters is None:
            return None
        name = codes.code_id(letters)
        return self._store.find_send_codes({name: codes.digest(letters)}).get(name)

    def _objection(self, found: SendCode, sender: Account, peer: str, recipients: Sequence[str]) -> str:
        try:
            scope = Scope.from_json(found.scope)
        except BadScope:
            return "scope unreadable"
        owner = sender.address if found.account_id == sender.id else ""
        return scope.objection(owner=owner, sender=sender.address, peer=peer, recipients=recipients)


def refused(*, events: tuple[Event, ...] = (), delay: float = 0.0) -> Refusal:
    """The one answer to every wrong or missing code."""
    return Refusal(
        550,
        "5.7.8",
        f"code d'envoi absent ou refuse : verifier le champ {codes.CODE_FIELD} ou le code entre crochets au debut ou "
        "a la fin du sujet, ou demander un nouveau code a l'operateur",
        f"send code missing or refused: check the {codes.CODE_FIELD} field or the code in brackets at the start or end "
        "of the subject, or ask the operator for a new code",
        events,
        delay,
    )


def _several(sender: Account) -> Refusal:
    return Refusal(
        550,
        "5.7.8",
        "plusieurs codes d'envoi dans ce message : donner le code une seule fois",
        "several send codes in this message: give the code once only",
        (Event("code.refused", {"account": sender.address, "reason": "several"}),),
    )


def _closed(sender: Account) -> Refusal:
    return Refusal(
        451,
        "4.7.1",
        "trop de codes d'envoi refuses pour cette boite : reessayer dans dix minutes ou appeler l'operateur",
        "too many refused send codes for this mailbox: try again in ten minutes or call the operator",
        (Event("code.refused", {"account": sender.address, "reason": "closed"}),),
        LONGEST_DELAY,
    )
