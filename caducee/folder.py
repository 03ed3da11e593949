"""Where things are in an operator's folder. Nothing this program writes lies outside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caducee.settings import SETTINGS_FILE

SERVER = "server"
DMP_AUTHENTICATION = "dmp-auth"
DMP_SIGNATURE = "dmp-sign"
"""Names of the certificate chains (.pem) and keys (.key) under keys/."""


@dataclass(frozen=True, slots=True)
class OperatorFolder:
    """The layout of one operator's data: `root` is the folder given to `caducee init`."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / SETTINGS_FILE

    @property
    def database(self) -> Path:
        return self.root / "caducee.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def master_key(self) -> Path:
        return self.keys / "master.key"

    @property
    def directory_password(self) -> Path:
        return self.keys / "directory.password"

    @property
    def directory_reader_password(self) -> Path:
        return self.keys / "directory-reader.password"

    @property
    def directory_writer_password(self) -> Path:
        return self.keys / "directory-writer.password"

    @property
    def trust(self) -> Path:
        return self.root / "trust"

    @property
    def white_list(self) -> Path:
        return self.trust / "listeblanche.xml"

    @property
    def published(self) -> Path:
        return self.root / "published"

    @property
    def directory(self) -> Path:
        return self.root / "directory"

    @property
    def record_key(self) -> Path:
        """The embedded record's own key, once the master key it began with was replaced."""
        return self.keys / "record.key"

    @property
    def record(self) -> Path:
        return self.root / "record"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def metrics(self) -> Path:
        """Figures of the running processes; begun anew at each start."""
        return self.root / "metrics"

    @property
    def bridge(self) -> Path:
        return self.root / "bridge.db"

    def resolve(self, path: str) -> Path:
        """A path of the settings, relative to this folder."""
        return self.root / path
