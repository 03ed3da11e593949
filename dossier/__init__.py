"""The embedded patient record: an XDS.b registry and repository that receives deposits (ITI-41) over mutual TLS."""

from dossier.app import BASE, make_record_app
from dossier.asker import Authority, only_itself, remember, structure_of
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
from dossier.serve import RecordServer, bind
from dossier.show import RecordView
from dossier.store import RecordStore

__all__ = [
    "BASE",
    "Access",
    "Authority",
    "Caller",
    "Entry",
    "NewEntry",
    "NewSubmission",
    "PatientState",
    "RecordRefusal",
    "RecordServer",
    "RecordStore",
    "RecordUnavailable",
    "RecordView",
    "Status",
    "bind",
    "make_record_app",
    "only_itself",
    "remember",
    "structure_of",
]
