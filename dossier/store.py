"""The embedded record's memory: submissions, documents and the trace of accesses.

Invariants
* A submission is kept entirely or not at all: encrypted blobs are synced first, then one transaction names them.
* A document's uniqueId is kept once, for ever. The same bytes again are XDSDuplicateUniqueIdInRegistry, other bytes are
  XDSNonIdenticalHash (dmp.md §1.3, §3.10); neither writes anything.
* What names or describes a patient is encrypted (blobs: AES-GCM chunks; fields: sealed); look-up by keyed hash only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, Engine, RowMapping, create_engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from dossier.model import (
    Access,
    Caller,
    Entry,
    NewEntry,
    NewSubmission,
    PatientState,
    RecordRefusal,
    RecordUnavailable,
    Status,
)
from dossier.tables import accesses, durable_sqlite, entries, patients, submissions, upgrade
from mailstore.blobs import BlobStore
from mailstore.crypto import seal, unseal
from mailstore.model import StoreUnavailable

MAX_LISTED = 1000
_SEALED_FIELDS = ("title", "type_code", "class_code", "mime_type", "author", "author_structure", "created")


def _utc() -> datetime:
    return datetime.now(UTC)


def _subkey(master_key: bytes, purpose: bytes) -> bytes:
    """Derive a 32-byte key for one purpose, so that the record shares no key with the mail store."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"caducee record " + purpose).derive(master_key)


class RecordStore:
    """The record over one database and one blob folder. Verbs are synchronous and thread safe."""

    def __init__(
        self,
        url: str,
        blobs: Path,
        master_key: bytes,
        *,
        clock: Callable[[], datetime] = _utc,
        create: bool = True,
        automatic_creation: bool = True,
    ) -> None:
        """Open the record at SQLAlchemy `url`; with `create`, make folders and bring the schema to date first. Without
        `automatic_creation`, a patient whose record nobody opened has none (both regimes exist: dmp.md §13)."""
        self._engine: Engine = create_engine(url, pool_pre_ping=True)
        durable_sqlite(self._engine)
        if create:
            blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
            upgrade(self._engine)
        self._seal_key = _subkey(master_key, b"fields")
        self._patient_hash_key = _subkey(master_key, b"patient lookup")
        self._blobs = BlobStore(blobs, _subkey(master_key, b"blobs"))
        self._clock = clock
        self._automatic = automatic_creation

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def check(self) -> None:
        """Prove that the database answers; raises RecordUnavailable."""
        try:
            with self._engine.connect() as connection:
                connection.execute(select(submissions.c.id).limit(1)).first()
        except OperationalError as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def save(self, submission: NewSubmission, caller: Caller | None = None) -> tuple[str, ...]:
        """Keep a submission and, in the same transaction, the trace of `caller`'s deposit; returns the entryUUIDs in order.

        A refusal for what the record already holds is traced too.

        Raises RecordRefusal (XDSRepositoryDuplicateUniqueIdInMessage, XDSDuplicateUniqueIdInRegistry, XDSNonIdenticalHash,
        XDSRegistryDeprecatedDocumentError, XDSRegistryMetadataError) or RecordUnavailable; nothing is written then.
        """
        try:
            return self._save(submission, caller)
        except RecordRefusal as refusal:
            if caller is not None:
                names = [entry.unique_id for entry in submission.entries]
                self.trace("ITI-41", refusal.code, caller, patient_id=submission.patient_id, unique_ids=names)
                refusal.traced = True
            raise
        except (OperationalError, StoreUnavailable) as error:
            raise RecordUnavailable("stockage indisponible / storage unavailable") from error

    def _save(self, submission: NewSubmission, caller: Caller | None) -> tuple[str, ...]:
        names = [entry.unique_id for entry in submission.entries]
        if len(set(names)) != len(names):
            raise RecordRefusal(
                "XDSRepositoryDuplicateUniqueIdInMessage", "uniqueId répété dans le lot / repeated uniqueId"
            )
        with self._engine.connect() as connection:
            self._refuse_known(connection, submission)
        written = [self._blobs.write(entry.content) for entry in submission.entries]
        try:
            return self._insert(submission, written, caller)
        except RecordRefusal:
            # Only here is it certain that no row names them; after any other failure `sweep` decides.
            for blob in written:
                self._blobs.delete(blob)
            raise

    def sweep(self, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove blobs that no entry names (a crash between blob and commit); returns how many files."""
        limit = self._clock() - older_than
        with self._engine.connect() as connection:
            referenced = set(connection.execute(select(entries.c.blob)).scalars())
        return self._blobs.sweep(referenced, limit)

    def _insert(self, submission: NewSubmission, blobs: Sequence[str], caller: Caller | None) -> tuple[str, ...]:
        try:
            with self._engine.begin() as connection:
                self._refuse_known(connection, submission)
                if caller is not None:
                    names = [entry.unique_id for entry in submission.entries]
                    self._write_access(connection, "ITI-41", "Success", caller, submission.patient_id, names)
                return self._insert_rows(connection, submission, blobs)
        except IntegrityError as error:
            # Another hand-over of the same identifiers committed between our look and our insert: now it is visible.
            with self._engine.connect() as connection:
                self._refuse_known(connection, submission)
            raise RecordUnavailable("conflit d'écriture / write conflict") from error

    def _insert_rows(self, connection: Connection, submission: NewSubmission, blobs: Sequence[str]) -> tuple[str, ...]:
        patient_key = self._patient_key(submission.patient_id)
        self._refuse_closed(connection, patient_key)
        stored_at = self._clock().isoformat()
        sealed = self._seal(
            {"source_id": submission.source_id, "patient_id": submission.patient_id}, submission.unique_id
        )
        inserted = connection.execute(
            insert(submissions).values(
                unique_id=submission.unique_id, patient_key=patient_key, stored_at=stored_at, sealed=sealed
            )
        )
        row_id = inserted.inserted_primary_key[0] if inserted.inserted_primary_key else None
        uuids = []
        for entry, blob in zip(submission.entries, blobs, strict=True):
            if entry.replaces:
                self._deprecate(connection, entry.replaces, patient_key)
            entry_uuid = f"urn:uuid:{uuid.uuid4()}"
            uuids.append(entry_uuid)
            connection.execute(
                insert(entries).values(
                    submission_id=row_id,
                    entry_uuid=entry_uuid,
                    unique_id=entry.unique_id,
                    patient_key=patient_key,
                    status=Status.APPROVED.value,
                    is_signature=entry.is_signature,
                    sha1=sha1(entry.content),
                    size=len(entry.content),
                    blob=blob,
                    stored_at=stored_at,
                    sealed=self._seal_entry(entry, submission),
                )
            )
        return tuple(uuids)

    def _seal_entry(self, entry: NewEntry, submission: NewSubmission) -> bytes:
        fields: dict[str, Any] = {name: getattr(entry, name) for name in _SEALED_FIELDS}
        fields["patient_id"] = submission.patient_id
        fields["depositor"] = submission.depositor
        fields["visibility"] = list(entry.visibility)
        fields["metadata"] = entry.metadata.decode("utf-8", "replace")
        return self._seal(fields, entry.unique_id)

    def _refuse_known(self, connection: Connection, submission: NewSubmission) -> None:
        """Documents first, then the set: a retry of a whole set must be told about its documents (dmp.md §3.10)."""
        names = [entry.unique_id for entry in submission.entries]
        known = {
            row.unique_id: row
            for row in connection.execute(
                select(entries.c.unique_id, entries.c.sha1, entries.c.patient_key).where(entries.c.unique_id.in_(names))
            )
        }
        patient_key = self._patient_key(submission.patient_id)
        for entry in submission.entries:
            row = known.get(entry.unique_id)
            if row is None:
                continue
            same = hmac.compare_digest(row.sha1, sha1(entry.content)) and hmac.compare_digest(
                row.patient_key, patient_key
            )
            code = "XDSDuplicateUniqueIdInRegistry" if same else "XDSNonIdenticalHash"
            raise RecordRefusal(code, entry.unique_id)
        taken = select(submissions.c.id).where(submissions.c.unique_id == submission.unique_id)
        if connection.execute(taken).first() is not None:
            # Not XDSDuplicateUniqueIdInRegistry: that answer promises that the document itself is here.
            raise RecordRefusal("XDSRegistryMetadataError", "lot déjà utilisé / submission set id already used")

    def _deprecate(self, connection: Connection, entry_uuid: str, patient_key: bytes) -> None:
        """RPLC: the target becomes Deprecated; it must be an Approved entry of the same patient (dmp.md §3.9)."""
        result = connection.execute(
            update(entries)
            .where(
                entries.c.entry_uuid == entry_uuid,
                entries.c.patient_key == patient_key,
                entries.c.status == Status.APPROVED.value,
            )
            .values(status=Status.DEPRECATED.value)
        )
        if result.rowcount == 1:
            return
        target = select(entries.c.status).where(
            entries.c.entry_uuid == entry_uuid, entries.c.patient_key == patient_key
        )
        if connection.execute(target).first() is not None:
            raise RecordRefusal("XDSRegistryDeprecatedDocumentError", "document déjà remplacé / already replaced")
        raise RecordRefusal("XDSRegistryMetadataError", "document à remplacer inconnu / document to replace is unknown")

    def patient_state(self, patient_id: str) -> PatientState:
        """Where the record of a patient (CX value) stands; raises RecordUnavailable."""
        try:
            with self._engine.connect() as connection:
                return self._state(connection, self._patient_key(patient_id))
        except OperationalError as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def set_patient_state(self, patient_id: str, state: PatientState, caller: Caller) -> None:
        """Open or close a patient's record; traced under `caller`. Raises ValueError for ABSENT, RecordUnavailable."""
        if state is PatientState.ABSENT:
            raise ValueError("a record is opened or closed")
        key, at = self._patient_key(patient_id), self._clock().isoformat()
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(patients).where(patients.c.patient_key == key))
                connection.execute(insert(patients).values(patient_key=key, state=state.value, changed_at=at))
                action = "open" if state is PatientState.ACTIVE else "close"
                self._write_access(connection, action, "Success", caller, patient_id, ())
        except OperationalError as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def _state(self, connection: Connection, patient_key: bytes) -> PatientState:
        row = connection.execute(select(patients.c.state).where(patients.c.patient_key == patient_key)).first()
        if row is not None:
            return PatientState(row.state)
        return PatientState.ACTIVE if self._automatic else PatientState.ABSENT

    def _refuse_closed(self, connection: Connection, patient_key: bytes) -> None:
        state = self._state(connection, patient_key)
        if state is PatientState.CLOSED:
            raise RecordRefusal("DMPClosed", "DMP fermé / record closed")
        if state is PatientState.ABSENT:
            raise RecordRefusal("XDSUnknownPatientId", "aucun dossier pour ce patient / no record for this patient")

    def lookup(self, patient_id: str, unique_ids: Sequence[str]) -> tuple[str, ...]:
        """entryUUIDs of these documents of this patient (TD3.1b), deleted ones left out, in the order asked."""
        found: dict[str, str] = {}
        query = select(entries.c.unique_id, entries.c.entry_uuid).where(
            entries.c.unique_id.in_(list(unique_ids)),
            entries.c.patient_key == self._patient_key(patient_id),
            entries.c.status != Status.DELETED.value,
        )
        try:
            with self._engine.connect() as connection:
                found = {row.unique_id: row.entry_uuid for row in connection.execute(query)}
        except OperationalError as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error
        return tuple(found[one] for one in unique_ids if one in found)

    def delete_entry(self, patient_id: str, entry_uuid: str, caller: Caller) -> None:
        """Mark an entry as deleted for the structure that deposited it (TD3.3c; dmp.md §7.1 note 9), and trace it.

        Raises RecordRefusal: XDSMetadataUpdateError (unknown, deleted already, or another structure's), RecordUnavailable.
        """
        key = self._patient_key(patient_id)
        try:
            with self._engine.begin() as connection:
                rows = _LISTING.where(entries.c.entry_uuid == entry_uuid, entries.c.patient_key == key)
                row = connection.execute(rows).mappings().first()
                entry = None if row is None else self._entry(row)
                if entry is None or entry.is_signature or entry.status is Status.DELETED:
                    raise RecordRefusal("XDSMetadataUpdateError", "document inconnu ou supprimé / unknown or deleted")
                if not entry.depositor or entry.depositor != caller.structure_id:
                    raise RecordRefusal(
                        "XDSMetadataUpdateError", "document d'une autre structure / document of another structure"
                    )
                changed = connection.execute(
                    update(entries)
                    .where(entries.c.entry_uuid == entry_uuid, entries.c.status == entry.status.value)
                    .values(status=Status.DELETED.value)
                )
                if changed.rowcount != 1:
                    raise RecordUnavailable("conflit d'écriture / write conflict")
                self._write_access(connection, "ITI-57", "Success", caller, patient_id, [entry.unique_id])
        except OperationalError as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def find(self, unique_id: str) -> Entry | None:
        """The entry of a document uniqueId, or None."""
        with self._engine.connect() as connection:
            row = connection.execute(_LISTING.where(entries.c.unique_id == unique_id)).mappings().first()
        return None if row is None else self._entry(row)

    def show(self, patient_id: str, *, signatures: bool = False) -> list[Entry]:
        """The entries of one patient (CX value), oldest first, at most MAX_LISTED; lot signatures only on request."""
        query = _LISTING.where(entries.c.patient_key == self._patient_key(patient_id))
        if not signatures:
            query = query.where(entries.c.is_signature.is_(False))
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(entries.c.id).limit(MAX_LISTED)).mappings().all()
        return [self._entry(row) for row in rows]

    def read(self, unique_id: str) -> bytes:
        """The exact bytes of a document; KeyError when unknown, BlobDamaged when altered on disk."""
        with self._engine.connect() as connection:
            row = connection.execute(select(entries.c.blob).where(entries.c.unique_id == unique_id)).first()
        if row is None:
            raise KeyError(unique_id)
        return self._blobs.read(str(row.blob))

    def trace(
        self, action: str, outcome: str, caller: Caller, *, patient_id: str = "", unique_ids: Sequence[str] = ()
    ) -> None:
        """Write one line of the access trace; raises RecordUnavailable, so that an untraced access is not served."""
        try:
            with self._engine.begin() as connection:
                self._write_access(connection, action, outcome, caller, patient_id, unique_ids)
        except OperationalError as error:
            raise RecordUnavailable("trace impossible / cannot trace") from error

    def _write_access(
        self,
        connection: Connection,
        action: str,
        outcome: str,
        caller: Caller,
        patient_id: str,
        unique_ids: Sequence[str],
    ) -> None:
        at = self._clock().isoformat()
        body = {"caller": asdict(caller), "unique_ids": list(unique_ids)[:100]}
        connection.execute(
            insert(accesses).values(
                at=at,
                patient_key=self._patient_key(patient_id) if patient_id else None,
                action=action[:32],
                outcome=outcome[:64],
                sealed=self._seal(body, f"access {at}"),
            )
        )

    def accesses(self, patient_id: str | None = None, *, limit: int = 200) -> list[Access]:
        """The trace, newest first: of one patient, or of everybody (operator's view) when None."""
        query = select(accesses).order_by(accesses.c.id.desc()).limit(min(limit, MAX_LISTED))
        if patient_id is not None:
            query = query.where(accesses.c.patient_key == self._patient_key(patient_id))
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        found = []
        for row in rows:
            body = self._unseal(row["sealed"], f"access {row['at']}")
            found.append(
                Access(
                    at=datetime.fromisoformat(row["at"]),
                    action=row["action"],
                    outcome=row["outcome"],
                    unique_ids=tuple(body["unique_ids"]),
                    caller=Caller(**body["caller"]),
                )
            )
        return found

    def _entry(self, row: RowMapping) -> Entry:
        fields = self._unseal(row["sealed"], row["unique_id"])
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
            **{name: fields[name] for name in _SEALED_FIELDS},
        )

    def _patient_key(self, patient_id: str) -> bytes:
        return hmac.new(self._patient_hash_key, patient_id.encode(), hashlib.sha256).digest()

    def _seal(self, fields: dict[str, Any], context: str) -> bytes:
        return seal(self._seal_key, json.dumps(fields, ensure_ascii=False).encode(), context.encode())

    def _unseal(self, sealed: bytes, context: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(unseal(self._seal_key, sealed, context.encode()))
        return value


_LISTING = select(entries, submissions.c.unique_id.label("submission_unique_id")).join_from(
    entries, submissions, entries.c.submission_id == submissions.c.id
)


def sha1(content: bytes) -> str:
    """Lower-case hexadecimal SHA-1, the hash XDS metadata prescribe (dmp.md §3.3); not used for security here."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
