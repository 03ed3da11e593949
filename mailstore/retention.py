"""What is removed in time: messages beyond their folder's retention, the old part of the audit trail, and the rest of the
housekeeping.

Invariants: a message goes when it has been in its folder (SAVEDATE) for longer than the folder keeps; what went is in the
audit trail, the trail's own lines among it; without a rule everything is kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select

from mailstore.audit import AuditVerbs
from mailstore.core import BATCH, batches
from mailstore.doings import Doer
from mailstore.model import Event, NoSuchFolder
from mailstore.search import SearchVerbs
from mailstore.tables import accounts, audit, folders, messages
from mailstore.transfers import TransferVerbs

INDEXED_EACH_TIME = 5000
FORGOTTEN_AT_ONCE = 5000
"""Lines of the trail in one transaction, so that no delivery waits long."""


class RetentionVerbs(TransferVerbs, SearchVerbs, AuditVerbs):
    """Verbs of the housekeeping."""

    def apply_retention(self, at: datetime) -> int:
        """Remove what folders no longer keep at `at`; returns how many messages went. Raises StoreUnavailable."""
        ruled = select(folders.c.id, folders.c.retention_days, accounts.c.address).join(
            accounts, accounts.c.id == folders.c.account_id
        )
        with self._db.read() as connection:
            rules = connection.execute(ruled.where(folders.c.retention_days.is_not(None))).all()
        removed = 0
        for rule in rules:
            removed += self._apply_rule(rule.id, at - timedelta(days=rule.retention_days), rule.address, at)
        return removed

    def _apply_rule(self, folder_id: int, limit: datetime, address: str, at: datetime) -> int:
        saved = func.coalesce(messages.c.saved_at, messages.c.date)
        old = select(messages.c.uid).where(messages.c.folder_id == folder_id, saved < limit).order_by(messages.c.uid)
        with self._db.read() as connection:
            uids = list(connection.execute(old).scalars())
        gone, doer = 0, Doer("retention", "", at)
        for batch in batches(uids, BATCH):
            try:
                gone += len(self.expunge(folder_id, batch, doer=doer))
            except NoSuchFolder:
                break
        if gone:
            detail = {"mailbox": address, "folder": f"F{folder_id}", "messages": str(gone), "before": limit.isoformat()}
            self.record([Event("retention.removed", detail)], at=at)
        return gone

    def forget_trail(self, before: datetime, at: datetime) -> int:
        """Remove the lines of the audit trail older than `before`; returns how many. What went is a line of the trail. Raises
        StoreUnavailable: what was removed until then stays removed, and is not told."""
        oldest = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(FORGOTTEN_AT_ONCE)
        removed, gone = 0, FORGOTTEN_AT_ONCE
        while gone == FORGOTTEN_AT_ONCE:
            with self._db.write() as connection:
                gone = connection.execute(delete(audit).where(audit.c.id.in_(oldest))).rowcount
            removed += gone
        if removed:
            detail = {"lines": str(removed), "before": before.isoformat()}
            self.record([Event("trail.removed", detail)], at=at)
        return removed

    def housekeep(self, at: datetime, grace: timedelta, *, trail_days: int | None = None) -> None:
        """Everything to be done every hour or so: retention, the audit trail beyond `trail_days` (None: kept), index of new
        messages, files nobody refers to any more (after `grace`). Raises StoreUnavailable."""
        self.apply_retention(at)
        if trail_days is not None:
            self.forget_trail(at - timedelta(days=trail_days), at)
        self.sweep(at - grace)
        self.index_pending(INDEXED_EACH_TIME)
