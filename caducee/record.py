"""The embedded record of an operator's folder."""

from __future__ import annotations

from caducee.folder import OperatorFolder
from caducee.wiring import now
from dossier import RecordStore
from mailstore import read_master_key


def open_record(folder: OperatorFolder, *, automatic_creation: bool = True) -> RecordStore:
    """Open the record, created at first use. Raises mailstore.StoreError, dossier.RecordUnavailable."""
    folder.record.mkdir(mode=0o700, exist_ok=True)
    url = f"sqlite:///{(folder.record / 'record.db').resolve()}"
    return RecordStore(
        url,
        folder.record / "blobs",
        read_master_key(folder.record_key if folder.record_key.exists() else folder.master_key),
        clock=now,
        automatic_creation=automatic_creation,
    )
