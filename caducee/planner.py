"""Wires the bridge to submission: which mailbox deposits, and on behalf of whom."""

from __future__ import annotations

from datetime import datetime

import structlog

from caducee.settings import Settings
from directory import Directory, DirectoryError, DirectoryUnavailable, Entry
from dmp_bridge import DepositContext, plan_deposits
from mailstore import Account, NewDeposit


class SubmissionPlanner:
    """`smtp.services.DepositPlanner`: documents of what our mailboxes send become deposits of our structure."""

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self._settings = settings
        self._directory = directory
        self._on = settings.dmp.deposit_on_sending and bool(settings.dmp.url)

    def plan(self, clear: bytes, *, sender: Account, at: datetime) -> tuple[NewDeposit, ...]:
        """The deposits of a clear message. Never raises: a defect here must not refuse a message."""
        if not self._on:
            return ()
        try:
            return plan_deposits(clear, self._context(sender))
        except Exception:
            structlog.get_logger().exception("deposits not planned", account=sender.address)
            return ()

    def _context(self, sender: Account) -> DepositContext:
        entry = self._entry(sender.address)
        operator = self._settings.operator
        return DepositContext(
            sender=sender.address,
            structure_id=operator.structure_id,
            structure_name=operator.organisation,
            sector=operator.sector,
            responsible_id=entry.national_id if entry else "",
            responsible_surname=entry.surname if entry else "",
            responsible_given_name=entry.given_name if entry else "",
            profession=entry.profession if entry else "",
            specialty=entry.speciality if entry else "",
            practice=self._settings.trust.practice,
        )

    def _entry(self, address: str) -> Entry | None:
        """Who is behind a mailbox; without an answer the document's own author is used."""
        try:
            return self._directory.by_address(address)
        except (DirectoryUnavailable, DirectoryError):
            return None
