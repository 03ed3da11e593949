"""Searching the texts of a folder from a sealed index (ADR 0017).

Invariants:
* what is kept of a text (its signature, its decoded form) is sealed like a message; clear texts and signatures exist in
  memory only, bounded;
* the answer is that of reading every message: the index only says which need not be read. A message that is not indexed
  yet is read, and indexed on the way;
* a content that is gone or damaged matches nothing; a damaged one is logged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import structlog
from sqlalchemy import exists, select

from mailstore.core import BATCH, batches
from mailstore.mailbox import SearchPart, SearchStopped
from mailstore.messages import MessageVerbs
from mailstore.model import BlobDamaged, FolderView, NoSuchMessage
from mailstore.searchtext import Query, search_text, signature
from mailstore.sql import AnyRow, insert_missing
from mailstore.tables import contents, messages, search_index

TEXT_KEPT = 512 * 1024  # bytes of the longest text kept beside its signature; a longer one is read from the message
INDEXED_AT_ONCE = 100
_log = structlog.get_logger(__name__)


class SearchVerbs(MessageVerbs):
    """Verbs that search, and that keep the index."""

    def search_text(
        self,
        folder_id: int,
        part: SearchPart,
        needle: str,
        *,
        uids: Sequence[int] | None = None,
        field: str = "",
        stopped: Callable[[], bool] | None = None,
    ) -> list[int]:
        """The UIDs, ascending, of the messages of a folder (or of `uids` among them) that hold `needle` in that part,
        without regard to case, after decoding (RFC 9051 §6.4.4). With SearchPart.HEADER and an empty needle: those that
        have the field. `stopped` is asked between messages.

        Raises NoSuchFolder, SearchStopped, SealBroken, StoreUnavailable."""
        query = Query.of(part, needle, field)
        view = self.view(folder_id)
        stop = stopped or (lambda: False)
        found: list[int] = []
        for batch in batches(self._candidates(folder_id, view, uids, query), BATCH):
            if stop():
                raise SearchStopped
            texts = self._texts_of([blob for _, blob in batch], stop)
            found.extend(uid for uid, blob in batch if blob in texts and query.found_in(texts[blob]))
        return found

    def warm_search(self, folder_id: int) -> None:
        """Have what searches of a folder begin with in memory, so that the first one is as quick as the next. Raises
        NoSuchFolder, SealBroken, StoreUnavailable."""
        self._load_signatures(folder_id, self.view(folder_id).blobs)

    def index_pending(self, limit: int) -> int:
        """Index up to `limit` contents of messages that are not yet; returns how many were. For the housekeeping."""
        statement = (
            select(contents.c.blob)
            .outerjoin(search_index, search_index.c.blob == contents.c.blob)
            .where(search_index.c.blob.is_(None), exists().where(messages.c.blob == contents.c.blob))
            .limit(limit)
        )
        with self._db.read() as connection:
            blobs = list(connection.execute(statement).scalars())
        for batch in batches(blobs, INDEXED_AT_ONCE):
            self._index_now(batch)
        return len(blobs)

    def _candidates(
        self, folder_id: int, view: FolderView, uids: Sequence[int] | None, query: Query
    ) -> list[tuple[int, str]]:
        """The messages (of `uids` among them) whose signature does not exclude them; those without one too."""
        pairs: Iterable[tuple[int, str]] = zip(view.uids, view.blobs, strict=True)
        if uids is not None:
            wanted = set(uids)
            pairs = [pair for pair in pairs if pair[0] in wanted]
        probes = query.probes()
        if not any(probes.values()):
            return list(pairs)
        self._load_signatures(folder_id, view.blobs)
        possible = self._signatures.possible(view.blobs, probes)
        return [pair for pair in pairs if pair[1] in possible] if possible else []

    def _load_signatures(self, folder_id: int, blobs: Sequence[str]) -> None:
        """Bring the signatures of a folder's messages into memory, as far as they have one and there is room."""
        missing = self._signatures.missing(blobs)
        if not missing:
            return
        columns = (search_index.c.blob, search_index.c.sealed_signature)
        with self._db.read() as connection:
            if len(missing) > 20 * BATCH:
                here = select(*columns).join(messages, messages.c.blob == search_index.c.blob)
                self._keep_signatures(connection.execute(here.where(messages.c.folder_id == folder_id)))
            else:
                for batch in batches(missing, BATCH):
                    self._keep_signatures(connection.execute(select(*columns).where(search_index.c.blob.in_(batch))))

    def _keep_signatures(self, rows: Iterable[AnyRow]) -> None:
        unseal = self._fields.unseal
        self._signatures.put([(row[0], unseal(row[1], signature_aad(row[0]))) for row in rows])

    def _texts_of(self, blobs: Sequence[str], stop: Callable[[], bool]) -> dict[str, str]:
        """The search texts of contents: from memory, from the index, else from the messages, which are then indexed."""
        texts = {blob: text for blob in blobs if (text := self._texts.values.get(blob)) is not None}
        missing = [blob for blob in dict.fromkeys(blobs) if blob not in texts]
        if not missing:
            return texts
        columns = (search_index.c.blob, search_index.c.sealed_text)
        with self._db.read() as connection:
            rows = connection.execute(select(*columns).where(search_index.c.blob.in_(missing))).all()
        known = {row[0]: row[1] for row in rows}
        for blob, sealed in known.items():
            if sealed is not None:
                text = self._fields.unseal(sealed, text_aad(blob)).decode("utf-8", "surrogatepass")
                texts[blob] = text
                self._texts.put(blob, text, sys.getsizeof(text) + 200)
        for batch in batches([blob for blob in missing if blob not in texts], INDEXED_AT_ONCE):
            if stop():
                raise SearchStopped
            texts |= self._index_now(batch, known)
        return texts

    def _index_now(self, blobs: Sequence[str], known: Iterable[str] = ()) -> dict[str, str]:
        """Read contents, keep what the index wants of those not `known` to it; returns their texts."""
        texts: dict[str, str] = {}
        for blob in blobs:
            try:
                texts[blob] = search_text(self._blobs.read(blob))
            except NoSuchMessage:
                continue
            except BlobDamaged:
                _log.error("a message is damaged in the store", blob=blob)
        rows = [self._index_row(blob, text) for blob, text in texts.items() if blob not in known]
        if rows:
            with self._db.write() as connection:
                connection.execute(insert_missing(connection, search_index), rows)
        return texts

    def _index_row(self, blob: str, text: str) -> dict[str, object]:
        encoded = text.encode("utf-8", "surrogatepass")
        kept = self._fields.seal(encoded, text_aad(blob)) if len(encoded) <= TEXT_KEPT else None
        sealed = self._fields.seal(signature(text), signature_aad(blob))
        return {"blob": blob, "sealed_signature": sealed, "sealed_text": kept}


def signature_aad(blob: str) -> bytes:
    """What a sealed signature is bound to."""
    return b"search signature\x00" + blob.encode("ascii")


def text_aad(blob: str) -> bytes:
    """What a sealed search text is bound to."""
    return b"search text\x00" + blob.encode("ascii")
