"""The embedded record's memory: submissions, documents and the trace of accesses.

Invariants
* A submission is kept entirely or not at all: encrypted files of large documents are synced first, then one transaction
  names them and holds the small ones.
* A document's uniqueId is kept once, for ever. The same bytes again are XDSDuplicateUniqueIdInRegistry, other bytes are
  XDSNonIdenticalHash (dmp.md §1.3, §3.10); neither writes anything.
* A deposit and its line in the trace are one transaction.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from dossier.model import Caller, NewEntry, NewSubmission, PatientState, RecordRefusal, RecordUnavailable, Status
from dossier.reading import LISTING, RecordReading
from dossier.tables import accesses, entries, patients, submissions
from dossier.vault import INLINE, SEALED_FIELDS, Vault
from mailstore.direct import Direct, DirectAmong
from mailstore.model import StoreUnavailable

_INSERT_ENTRY = Direct(
    insert(entries),
    "submission_id",
    "entry_uuid",
    "unique_id",
    "patient_key",
    "status",
    "is_signature",
    "sha1",
    "size",
    "blob",
    "content",
    "sealed",
    "stored_at",
)
_INSERT_SUBMISSION = Direct(
    insert(submissions).returning(submissions.c.id), "unique_id", "patient_key", "stored_at", "sealed"
)
_INSERT_ACCESS = Direct(insert(accesses), "at", "patient_key", "action", "outcome", "sealed")
_KNOWN = DirectAmong(
    lambda names: select(entries.c.unique_id, entries.c.sha1, entries.c.patient_key).where(
        entries.c.unique_id.in_(names)
    ),
    most=64,
)
_TAKEN = Direct(select(submissions.c.id).where(submissions.c.unique_id == bindparam("name")))


def _utc() -> datetime:
    return datetime.now(UTC)


class RecordStore(RecordReading):
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
        super().__init__(Vault(url, blobs, master_key, clock=clock, create=create), automatic_creation)

    def close(self) -> None:
        """Release the database."""
        self._vault.close()

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
        except StoreUnavailable as error:
            raise RecordUnavailable("stockage indisponible / storage unavailable") from error

    def _save(self, submission: NewSubmission, caller: Caller | None) -> tuple[str, ...]:
        names = [entry.unique_id for entry in submission.entries]
        if len(set(names)) != len(names):
            raise RecordRefusal(
                "XDSRepositoryDuplicateUniqueIdInMessage", "uniqueId répété dans le lot / repeated uniqueId"
            )
        large = [entry for entry in submission.entries if len(entry.content) > INLINE]
        if large:
            with self._vault.reading() as connection:
                self._refuse_known(connection, submission)
        written = self._vault.blobs.write_all([entry.content for entry in large])
        blobs = dict(zip((entry.unique_id for entry in large), written, strict=True))
        try:
            return self._insert(submission, blobs, caller)
        except RecordRefusal:
            # Only here is it certain that no row names them; after any other failure `sweep` decides.
            for blob in written:
                self._vault.blobs.delete(blob)
            raise

    def sweep(self, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove blobs that no entry names (a crash between blob and commit); returns how many files."""
        limit = self._vault.clock() - older_than
        with self._vault.reading() as connection:
            referenced = set(connection.execute(select(entries.c.blob).where(entries.c.blob != "")).scalars())
        return self._vault.blobs.sweep(referenced, limit)

    def _insert(self, submission: NewSubmission, blobs: dict[str, str], caller: Caller | None) -> tuple[str, ...]:
        try:
            with self._vault.writing() as connection:
                self._refuse_known(connection, submission)
                if caller is not None:
                    names = [entry.unique_id for entry in submission.entries]
                    self._write_access(connection, "ITI-41", "Success", caller, submission.patient_id, names)
                return self._insert_rows(connection, submission, blobs)
        except IntegrityError as error:
            # Another hand-over of the same identifiers committed between our look and our insert: now it is visible.
            with self._vault.reading() as connection:
                self._refuse_known(connection, submission)
            raise RecordUnavailable("conflit d'écriture / write conflict") from error

    def _insert_rows(self, connection: Connection, submission: NewSubmission, blobs: dict[str, str]) -> tuple[str, ...]:
        vault = self._vault
        patient_key = vault.patient_key(submission.patient_id)
        self._refuse_closed(connection, patient_key)
        stored_at = vault.clock().isoformat()
        fields = {"source_id": submission.source_id, "patient_id": submission.patient_id}
        row = {
            "unique_id": submission.unique_id,
            "patient_key": patient_key,
            "stored_at": stored_at,
            "sealed": vault.seal(fields, submission.unique_id),
        }
        key = _INSERT_SUBMISSION.first(connection, row)
        for entry in submission.entries:
            if entry.replaces:
                self._deprecate(connection, entry.replaces, patient_key)
        common = {
            "submission_id": key[0] if key else None,
            "patient_key": patient_key,
            "status": Status.APPROVED.value,
            "stored_at": stored_at,
        }
        rows = [common | self._row(entry, submission, blobs.get(entry.unique_id, "")) for entry in submission.entries]
        _INSERT_ENTRY.run(connection, rows)
        return tuple(str(row["entry_uuid"]) for row in rows)

    def _row(self, entry: NewEntry, submission: NewSubmission, blob: str) -> dict[str, Any]:
        fields: dict[str, Any] = {name: getattr(entry, name) for name in SEALED_FIELDS}
        fields["patient_id"] = submission.patient_id
        fields["depositor"] = submission.depositor
        fields["visibility"] = list(entry.visibility)
        fields["metadata"] = entry.metadata.decode("utf-8", "replace")
        return {
            "entry_uuid": f"urn:uuid:{uuid.uuid4()}",
            "unique_id": entry.unique_id,
            "is_signature": entry.is_signature,
            "sha1": sha1(entry.content),
            "size": len(entry.content),
            "blob": blob,
            "content": None if blob else self._vault.seal_document(entry.content, entry.unique_id),
            "sealed": self._vault.seal(fields, entry.unique_id),
        }

    def _refuse_known(self, connection: Connection, submission: NewSubmission) -> None:
        """Documents first, then the set: a retry of a whole set must be told about its documents (dmp.md §3.10)."""
        names = [entry.unique_id for entry in submission.entries]
        known = {found: (kept, owner) for found, kept, owner in _KNOWN.all(connection, {}, names)}
        patient_key = self._vault.patient_key(submission.patient_id)
        for entry in submission.entries:
            if entry.unique_id not in known:
                continue
            kept, owner = known[entry.unique_id]
            same = hmac.compare_digest(kept, sha1(entry.content)) and hmac.compare_digest(owner, patient_key)
            code = "XDSDuplicateUniqueIdInRegistry" if same else "XDSNonIdenticalHash"
            raise RecordRefusal(code, entry.unique_id)
        if _TAKEN.first(connection, {"name": submission.unique_id}) is not None:
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

    def _refuse_closed(self, connection: Connection, patient_key: bytes) -> None:
        state = self._state(connection, patient_key)
        if state is PatientState.CLOSED:
            raise RecordRefusal("DMPClosed", "DMP fermé / record closed")
        if state is PatientState.ABSENT:
            raise RecordRefusal("XDSUnknownPatientId", "aucun dossier pour ce patient / no record for this patient")

    def set_patient_state(self, patient_id: str, state: PatientState, caller: Caller) -> None:
        """Open or close a patient's record; traced under `caller`. Raises ValueError for ABSENT, RecordUnavailable."""
        if state is PatientState.ABSENT:
            raise ValueError("a record is opened or closed")
        key, at = self._vault.patient_key(patient_id), self._vault.clock().isoformat()
        try:
            with self._vault.writing() as connection:
                connection.execute(delete(patients).where(patients.c.patient_key == key))
                connection.execute(insert(patients).values(patient_key=key, state=state.value, changed_at=at))
                action = "open" if state is PatientState.ACTIVE else "close"
                self._write_access(connection, action, "Success", caller, patient_id, ())
        except (StoreUnavailable, IntegrityError) as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def delete_entry(self, patient_id: str, entry_uuid: str, caller: Caller) -> None:
        """Mark an entry as deleted for the structure that deposited it (TD3.3c; dmp.md §7.1 note 9), and trace it.

        Raises RecordRefusal: XDSMetadataUpdateError (unknown, deleted already, or another structure's), RecordUnavailable.
        """
        key = self._vault.patient_key(patient_id)
        try:
            with self._vault.writing() as connection:
                rows = LISTING.where(entries.c.entry_uuid == entry_uuid, entries.c.patient_key == key)
                row = connection.execute(rows).mappings().first()
                entry = None if row is None else self._vault.entry(row)
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
        except StoreUnavailable as error:
            raise RecordUnavailable("base de données indisponible / database unavailable") from error

    def tell_state(self, patient_id: str, caller: Caller, action: str) -> PatientState:
        """Where the record of a patient (CX value) stands, the look itself being traced under `caller` in the same
        transaction. Raises RecordUnavailable: an untraced access is not served."""
        try:
            with self._vault.writing() as connection:
                state = self._state(connection, self._vault.patient_key(patient_id))
                self._write_access(connection, action, state.value, caller, patient_id, ())
        except StoreUnavailable as error:
            raise RecordUnavailable("trace impossible / cannot trace") from error
        return state

    def trace(
        self, action: str, outcome: str, caller: Caller, *, patient_id: str = "", unique_ids: Sequence[str] = ()
    ) -> None:
        """Write one line of the access trace; raises RecordUnavailable, so that an untraced access is not served."""
        try:
            with self._vault.writing() as connection:
                self._write_access(connection, action, outcome, caller, patient_id, unique_ids)
        except StoreUnavailable as error:
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
        at = self._vault.clock().isoformat()
        who = {name: getattr(caller, name) for name in caller.__slots__}
        row = {
            "at": at,
            "patient_key": self._vault.patient_key(patient_id) if patient_id else None,
            "action": action[:32],
            "outcome": outcome[:64],
            "sealed": self._vault.seal({"caller": who, "unique_ids": list(unique_ids)[:100]}, f"access {at}"),
        }
        _INSERT_ACCESS.run(connection, [row])


def sha1(content: bytes) -> str:
    """Lower-case hexadecimal SHA-1, the hash XDS metadata prescribe (dmp.md §3.3); not used for security here."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
