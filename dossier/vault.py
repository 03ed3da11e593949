"""Where the record is kept: its database, its files, its keys. The verbs are in `dossier.reading` and `dossier.store`.

Invariants
* What names or describes a patient is encrypted (files: AES-GCM chunks; fields and small documents: sealed); a patient is
  found by a keyed hash only. No key serves two purposes, nor the mail store.
* A transaction is all or nothing, and durable when its block ends; writers that wait for one another share one commit
  (`mailstore.groups`). A database or a disk that does not answer is RecordUnavailable, and nothing was written.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, RowMapping

from dossier.model import Entry, RecordUnavailable, Status
from dossier.tables import upgrade
from mailstore.blobs import BlobStore
from mailstore.crypto import seal, unseal
from mailstore.database import Database
from mailstore.model import StoreUnavailable

SEALED_FIELDS = ("title", "type_code", "class_code", "mime_type", "author", "author_structure", "created")
INLINE = 64 * 1024
"""Documents up to this many bytes are sealed in their row: one commit then makes them durable, without a file of their own."""


def _subkey(master_key: bytes, purpose: bytes) -> bytes:
    """Derive a 32-byte key for one purpose, so that the record shares no key with the mail store."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"caducee record " + purpose).derive(master_key)


class Vault:
    """Database, files and keys of one record. Thread safe."""

    def __init__(
        self, url: str, blobs: Path, master_key: bytes, *, clock: Callable[[], datetime], create: bool
    ) -> None:
        """Open the database at SQLAlchemy `url`; with `create`, make folders and bring the schema to date first.
        Raises RecordUnavailable."""
        if create:
            blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = Database(url, create=create)
        if create:
            upgrade(url)
        self._seal_key = _subkey(master_key, b"fields")
        self._document_key = _subkey(master_key, b"documents")
        self._patient_hash_key = _subkey(master_key, b"patient lookup")
        self.blobs = BlobStore(blobs, _subkey(master_key, b"blobs"))
        self.clock = clock

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with. Raises RecordUnavailable."""
        try:
            with self._database.read() as connection:
                yield connection
        except StoreUnavailable as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection to write with, durable at the end. Raises StoreUnavailable: its subclass CommitUncertain when
        nobody knows whether the transaction holds; IntegrityError."""
        with self._database.write() as connection:
            yield connection

    def patient_key(self, patient_id: str) -> bytes:
        """What finds a patient (CX value)."""
        return hmac.new(self._patient_hash_key, patient_id.encode(), hashlib.sha256).digest()

    def seal(self, fields: dict[str, Any], context: str) -> bytes:
        """Fields sealed and bound to their row."""
        return seal(self._seal_key, json.dumps(fields, ensure_ascii=False).encode(), context.encode())

    def unseal(self, sealed: bytes, context: str) -> dict[str, Any]:
        """The reverse. Raises SealBroken."""
        value: dict[str, Any] = json.loads(unseal(self._seal_key, sealed, context.encode()))
        return value

    def seal_document(self, content: bytes, unique_id: str) -> bytes:
        """A small document, for its row."""
        return seal(self._document_key, content, unique_id.encode())

    def unseal_document(self, sealed: bytes, unique_id: str) -> bytes:
        """The reverse. Raises SealBroken."""
        return unseal(self._document_key, sealed, unique_id.encode())

    def entry(self, row: RowMapping) -> Entry:
        """The entry of a row of the listing."""
        fields = self.unseal(row["sealed"], row["unique_id"])
        return Entry(
            entry_uuid=row["entry_uuid"],
            unique_id=row["unique_id"],
            patient_id=fields["patient_id"],
            submission_id=row["submission_unique_id"],
            stored_at=datetime.fromisoformat(row["stored_at"]),
            sha1=row["sha1"],
            size=row["size"],
            status=Status(row["status"]),
            is_signature=row["is_signature"],
            visibility=tuple(fields.get("visibility", ())),
            depositor=fields.get("depositor", ""),
            **{name: fields[name] for name in SEALED_FIELDS},
        )
