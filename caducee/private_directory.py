"""The slapd of an operator's folder, as `init` creates it and `serve` runs it."""

from __future__ import annotations

from caducee.folder import SERVER, OperatorFolder
from caducee.settings import Settings
from directory import Slapd


def private_directory(folder: OperatorFolder, settings: Settings) -> Slapd:
    """Described by the settings; nothing is started or written."""
    return Slapd(
        folder.directory,
        ldap_port=settings.listen.ldap,
        ldaps_port=settings.listen.ldaps or None,
        host=settings.listen.host,
        certificate=folder.keys / f"{SERVER}.pem",
        key=folder.keys / f"{SERVER}.key",
    )
