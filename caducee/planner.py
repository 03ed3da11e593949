"""Wires the bridge to the mail: which mailbox deposits, on behalf of whom, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import structlog

import mime
from caducee.settings import Settings
from directory import Directory, DirectoryError, DirectoryUnavailable, Entry
from dmp_bridge import DepositContext, Desk, find_documents, plan_deposits
from dmp_bridge.notices import carriable, given_back
from dmp_bridge.package import label_fields
from dmp_bridge.policy import Policy
from mailstore import Account, NewDeposit


class Planner:
    """`smtp.services.DepositPlanner`: documents of what our mailboxes send, or receive, become deposits of our structure."""

    def __init__(self, settings: Settings, directory: Directory, policy: Policy, desk: Desk) -> None:
        self._settings = settings
        self._directory = directory
        self._policy = policy
        self.desk = desk
        self._on = bool(settings.dmp.url)

    def labels(self, clear: bytes) -> Mapping[str, str]:
        """The X-MSS-CODECDA and X-MSS-INS fields of the documents found, none without. Never raises."""
        try:
            return dict(label_fields([one.header for one in find_documents(clear).documents if one.header is not None]))
        except Exception:
            structlog.get_logger().exception("documents not labelled")
            return {}

    def plan(
        self, clear: bytes, *, sender: Account, at: datetime, original: Callable[[], bytes] = bytes
    ) -> tuple[NewDeposit, ...]:
        """The deposits of a clear message that `sender` hands in, `original` being what was handed in, without its send code.
        Never raises: a defect here must not refuse a message."""
        if not self._on or not self._policy.on_sending(sender):
            return ()

        def asked() -> DepositContext:
            return with_message(replace(self.context(sender), notify=sender.address), clear)

        return self._guarded(clear, sender, at, asked, original)

    def searches(self, recipient: Account) -> bool:
        """Whether messages received for this mailbox are searched for documents."""
        return self._on and self._policy.on_receiving(recipient)

    def plan_received(
        self,
        clear: bytes,
        *,
        recipient: Account,
        at: datetime,
        mail_from: str = "",
        original: Callable[[], bytes] = bytes,
    ) -> tuple[NewDeposit, ...]:
        """The deposits of a clear message that came for `recipient` from the envelope sender `mail_from`, `original` being
        what came (encrypted, perhaps). Never raises."""
        if not self._on or not self._policy.on_receiving(recipient):
            return ()

        def asked() -> DepositContext:
            authors = mime.parse(clear, max_depth=1).addresses("From")
            notify = authors[0][1] if len(authors) == 1 else ""
            context = replace(self.context(recipient), notify=notify, addressed=recipient.address)
            return with_message(context, clear, mail_from=mail_from.lower())

        return self._guarded(clear, recipient, at, asked, original)

    def _guarded(
        self,
        clear: bytes,
        account: Account,
        at: datetime,
        asked: Callable[[], DepositContext],
        original: Callable[[], bytes],
    ) -> tuple[NewDeposit, ...]:
        try:
            context, whole = self._with_original(asked(), original)
            planned = plan_deposits(clear, context, at=at, desk=self.desk)
            return tuple(replace(one, original=whole) for one in planned)
        except Exception:
            structlog.get_logger().exception("deposits not planned", account=account.address)
            return ()

    def _with_original(self, context: DepositContext, original: Callable[[], bytes]) -> tuple[DepositContext, bytes]:
        """The message to keep until its receipt is told, b"" when the header stands for it, and what the receipt says of it."""
        section = self._settings.dmp
        if not (context.wants_mdn or section.error_mailbox):
            return replace(context, original=()), b""
        if section.receipts_original == "headers":
            return context, b""
        whole = original()
        if len(whole) > section.receipts_original_max:
            return replace(context, returned="size"), b""
        if not whole or not carriable(whole):
            return replace(context, returned="form"), b""
        return replace(context, returned="message"), whole

    def context(self, account: Account) -> DepositContext:
        """Who deposits for a mailbox: the operator's structure, and the person behind the mailbox."""
        entry = self._entry(account.address)
        operator = self._settings.operator
        return DepositContext(
            sender=account.address,
            structure_id=operator.structure_id,
            structure_name=operator.organisation,
            sector=operator.sector,
            responsible_id=entry.national_id if entry else "",
            responsible_surname=entry.surname if entry else "",
            responsible_given_name=entry.given_name if entry else "",
            profession=entry.profession if entry else "",
            specialty=entry.speciality if entry else "",
            practice=self._settings.trust.practice,
            refuse_style_sheet=self._settings.dmp.refuse_style_sheet,
        )

    def _entry(self, address: str) -> Entry | None:
        """Who is behind a mailbox; without an answer the document's own author is used."""
        try:
            return self._directory.by_address(address)
        except (DirectoryUnavailable, DirectoryError):
            return None


def with_message(context: DepositContext, clear: bytes, *, mail_from: str | None = None) -> DepositContext:
    """The context with the message's identifier, and whether its author asks for a receipt (RFC 8098 §2.1: to the author only,
    who is the envelope's sender too, or the bridge could be made to write to anybody; mssante.md §3.5). `mail_from` is that
    sender in lower case, None when it was proved to be the author's by a login."""
    root = mime.parse(clear, max_depth=1)
    wanted = [address.lower() for _, address in root.addresses("Disposition-Notification-To")]
    message_id = (root.get("Message-ID") or "").strip()
    author = context.notify.lower()
    asked = bool(author) and wanted == [author] and mail_from in (None, author)
    usable = message_id.startswith("<") and message_id.endswith(">") and len(message_id) < 500 and message_id.isascii()
    return replace(
        context,
        message_id=message_id if usable else "",
        wants_mdn=asked,
        original=given_back(root),
    )
