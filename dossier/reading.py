"""Looking into the record: where a patient stands, which documents, their bytes, the trace of accesses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from dossier.model import Access, Caller, Entry, PatientState, Status
from dossier.tables import accesses, entries, patients, submissions
from dossier.vault import Vault
from mailstore.crypto import SealBroken
from mailstore.direct import Direct
from mailstore.model import BlobDamaged

MAX_LISTED = 1000

# Not the documents themselves: a listing has no use for their bytes.
LISTING = select(
    *(column for column in entries.c if column.name != "content"), submissions.c.unique_id.label("submission_unique_id")
).join_from(entries, submissions, entries.c.submission_id == submissions.c.id)
_STATE = Direct(select(patients.c.state).where(patients.c.patient_key == bindparam("key")))
_LOOKUP = select(entries.c.unique_id, entries.c.entry_uuid).where(
    entries.c.unique_id.in_(bindparam("names", expanding=True)),
    entries.c.patient_key == bindparam("key"),
    entries.c.status != Status.DELETED.value,
)


class RecordReading:
    """The verbs that change nothing. All raise RecordUnavailable."""

    def __init__(self, vault: Vault, automatic_creation: bool) -> None:
        self._vault = vault
        self._automatic = automatic_creation

    def check(self) -> None:
        """Prove that the database answers."""
        with self._vault.reading() as connection:
            connection.execute(select(submissions.c.id).limit(1)).first()

    def patient_state(self, patient_id: str) -> PatientState:
        """Where the record of a patient (CX value) stands."""
        with self._vault.reading() as connection:
            return self._state(connection, self._vault.patient_key(patient_id))

    def _state(self, connection: Connection, patient_key: bytes) -> PatientState:
        row = _STATE.first(connection, {"key": patient_key})
        if row is not None:
            return PatientState(row[0])
        return PatientState.ACTIVE if self._automatic else PatientState.ABSENT

    def lookup(self, patient_id: str, unique_ids: Sequence[str]) -> tuple[str, ...]:
        """entryUUIDs of these documents of this patient (TD3.1b), deleted ones left out, in the order asked."""
        asked = {"names": list(unique_ids), "key": self._vault.patient_key(patient_id)}
        with self._vault.reading() as connection:
            found = {row.unique_id: row.entry_uuid for row in connection.execute(_LOOKUP, asked)}
        return tuple(found[one] for one in unique_ids if one in found)

    def find(self, unique_id: str) -> Entry | None:
        """The entry of a document uniqueId, or None."""
        with self._vault.reading() as connection:
            row = connection.execute(LISTING.where(entries.c.unique_id == unique_id)).mappings().first()
        return None if row is None else self._vault.entry(row)

    def show(self, patient_id: str, *, signatures: bool = False) -> list[Entry]:
        """The entries of one patient (CX value), oldest first, at most MAX_LISTED; lot signatures only on request."""
        query = LISTING.where(entries.c.patient_key == self._vault.patient_key(patient_id))
        if not signatures:
            query = query.where(entries.c.is_signature.is_(False))
        with self._vault.reading() as connection:
            rows = connection.execute(query.order_by(entries.c.id).limit(MAX_LISTED)).mappings().all()
        return [self._vault.entry(row) for row in rows]

    def read(self, unique_id: str) -> bytes:
        """The exact bytes of a document; KeyError when unknown, BlobDamaged when altered on disk."""
        with self._vault.reading() as connection:
            row = connection.execute(
                select(entries.c.blob, entries.c.content).where(entries.c.unique_id == unique_id)
            ).first()
        if row is None:
            raise KeyError(unique_id)
        if row.content is None:
            return self._vault.blobs.read(str(row.blob))
        try:
            return self._vault.unseal_document(row.content, unique_id)
        except SealBroken:
            raise BlobDamaged(
                "Document altéré ou clé étrangère. / Document altered, or sealed under another key."
            ) from None

    def accesses(self, patient_id: str | None = None, *, limit: int = 200) -> list[Access]:
        """The trace, newest first: of one patient, or of everybody (operator's view) when None."""
        query = select(accesses).order_by(accesses.c.id.desc()).limit(min(limit, MAX_LISTED))
        if patient_id is not None:
            query = query.where(accesses.c.patient_key == self._vault.patient_key(patient_id))
        with self._vault.reading() as connection:
            rows = connection.execute(query).mappings().all()
        found = []
        for row in rows:
            body = self._vault.unseal(row["sealed"], f"access {row['at']}")
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
