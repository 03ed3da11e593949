"""The end of an attempt: senders told, rows settled, several at a time.

Invariants: whoever is to be told is told by a notice stored before the row is settled, so that a crash in between repeats the
notice's fingerprint and not the notice; `settle` returns once its rows are durable; rows that were lost to another worker are
left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from mailstore import BlobDamaged, Leased, NoSuchMessage, ReceiptKind, ReceiptState, Settlement
from smtp import notices
from smtp.dialogue import Answer
from smtp.notices import Kind, Status
from smtp.services import Services
from smtp.together import Together

log = structlog.get_logger()
_HEADER_START = 64 * 1024
_TOGETHER = 200


class Settler:
    """Settles what workers bring, together: one transaction for all that came while the last one was written."""

    def __init__(self, services: Services, owner: str) -> None:
        self._services = services
        self._owner = owner
        self._together: Together[list[tuple[int, Settlement]], None] = Together(self._write, _TOGETHER)

    async def settle(self, results: list[tuple[int, Settlement]]) -> None:
        """Returns when these rows are settled, durably. Raises StoreError."""
        await self._together.do(results)

    def _write(self, group: Sequence[list[tuple[int, Settlement]]]) -> Sequence[None]:
        rows = [one for results in group for one in results]
        lost = self._services.store.settle_all(self._owner, rows, self._services.clock())
        if lost:
            log.warning("leases lost", count=len(lost))
        return [None] * len(group)


@dataclass(frozen=True, slots=True)
class Telling:
    """What senders are to be told of one attempt."""

    services: Services
    blob: str
    verdicts: Sequence[tuple[Leased, Answer, Kind | None]]
    detail: dict[str, str]
    returns: bool
    patience: timedelta

    @property
    def needed(self) -> bool:
        """False for the ordinary: delivered, and nobody asked to be told."""
        return any(
            verdict in (Kind.FAILED, Kind.DELAYED)
            or (verdict is Kind.DELIVERED and notices.wants(row.options, Kind.DELIVERED))
            for row, _, verdict in self.verdicts
        )

    def tell(self, now: datetime) -> None:
        """Store the notices and note the receipts. Blocking; raises StoreError."""
        for kind in (Kind.FAILED, Kind.DELAYED, Kind.DELIVERED):
            group = [(row, answer) for row, answer, verdict in self.verdicts if verdict is kind]
            if kind is Kind.DELIVERED:
                # The peer tells the sender itself when it offers DSN; otherwise we can only say that it took it.
                group = [] if self.returns else [one for one in group if notices.wants(one[0].options, kind)]
            self._note(kind, group, now)
            told = [one for one in group if notices.wants(one[0].options, kind)]
            if told:
                self._notice(Kind.RELAYED if kind is Kind.DELIVERED else kind, told, now)

    def _note(self, kind: Kind, group: Sequence[tuple[Leased, Answer]], now: datetime) -> None:
        if kind is Kind.DELAYED:
            return
        state = ReceiptState.NEGATIVE if kind is Kind.FAILED else ReceiptState.POSITIVE
        for row, answer in group:
            detail = f"{kind.value} {notices.status_of(answer)}" if kind is Kind.FAILED else "relayed 2.0.0"
            self.services.store.answer_receipt(
                row.submission_id, row.recipient, ReceiptKind.DELIVERY, state, detail, now
            )

    def _notice(self, kind: Kind, group: Sequence[tuple[Leased, Answer]], now: datetime) -> None:
        row = group[0][0]
        start, full = self._returned(row)
        about = notices.about_row(row, start, full, row.accepted_at + self.patience)
        statuses = [
            Status(
                one.recipient,
                {Kind.FAILED: notices.status_of(answer), Kind.DELAYED: "4.4.7"}.get(kind, "2.0.0"),
                str(answer),
                one.options.get("orcpt", ""),
                notices.mta_name(self.detail.get("host", "")),
            )
            for one, answer in group
        ]
        notices.tell(self.services, kind, about, statuses, now)

    def _returned(self, row: Leased) -> tuple[bytes, bytes]:
        """The header to quote, and the whole when it may be returned."""
        store = self.services.store
        try:
            small = row.options.get("ret") == "FULL" and store.content_size(self.blob) <= notices.MAX_RETURNED
            content = store.read_blob(self.blob) if small else store.read_blob(self.blob, 0, _HEADER_START)
        except (BlobDamaged, NoSuchMessage):
            return b"", b""
        return content[:_HEADER_START], content if small else b""


def tell_silences(services: Services, now: datetime) -> None:
    """Tell senders of the receipts that did not come in time: one message for each message of theirs. Blocking."""
    groups: dict[str, list[int]] = {}
    overdue = services.store.overdue_receipts(now)
    for number, one in enumerate(overdue):
        groups.setdefault(one.submission_id, []).append(number)
    for numbers in groups.values():
        receipts = [overdue[number] for number in numbers]
        sender = services.store.find_account(receipts[0].sender)
        if sender is not None:
            services.store.accept(notices.silence(receipts, sender, hostname=services.hostname, at=now), now)
        services.store.silent_receipts([one.row_id for one in receipts], now)
