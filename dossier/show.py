"""Looking into the record from the operator's desk: `caducee dossier show INS`, fetching a document, reading the access trace.

Invariant: every look at a patient's documents is itself traced, under the operator's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from dossier.model import Access, Caller, Entry
from dossier.store import RecordStore
from ihe.datatypes import patient_id
from ihe.ins import INS_OIDS


@dataclass(frozen=True, slots=True)
class RecordView:
    """A window on the record for one person (`who`, as the trace will name them)."""

    store: RecordStore
    who: str

    def show(self, ins: str, *, signatures: bool = False) -> list[Entry]:
        """The entries kept under this matricule, whatever its OID (production or test), oldest first."""
        found: list[Entry] = []
        for oid in sorted(INS_OIDS):
            entries = self.store.show(patient_id(ins, oid), signatures=signatures)
            if entries:
                self._trace("show", patient_id(ins, oid), [entry.unique_id for entry in entries])
            found += entries
        return found

    def fetch(self, unique_id: str) -> bytes:
        """The exact bytes of one document. Raises KeyError when unknown."""
        entry = self.store.find(unique_id)
        if entry is None:
            raise KeyError(unique_id)
        self._trace("fetch", entry.patient_id, [unique_id])
        return self.store.read(unique_id)

    def accesses(self, ins: str) -> list[Access]:
        """Who did what with this patient's record, newest first."""
        found = [access for oid in sorted(INS_OIDS) for access in self.store.accesses(patient_id(ins, oid))]
        return sorted(found, key=lambda access: access.at, reverse=True)

    def _trace(self, action: str, patient: str, unique_ids: list[str]) -> None:
        self.store.trace(action, "Success", Caller(person=self.who), patient_id=patient, unique_ids=unique_ids)
