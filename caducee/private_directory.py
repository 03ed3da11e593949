"""The slapd of an operator's folder, as `init` creates it and `serve` runs it; and its accounts."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from caducee.errors import UsageError
from caducee.folder import SERVER, OperatorFolder
from caducee.settings import Settings
from directory import Slapd
from trustspace import TrustSpaceError, pem


def private_directory(folder: OperatorFolder, settings: Settings) -> Slapd:
    """Described by the settings; nothing is started or written."""
    return Slapd(
        folder.directory,
        ldap_port=settings.listen.ldap,
        ldaps_port=settings.listen.ldaps or None,
        host=settings.listen.host,
        certificate=folder.keys / f"{SERVER}.pem",
        key=folder.keys / f"{SERVER}.key",
        domains=settings.operator.domains,
        client_trust=(lambda: client_trust(folder)) if settings.directory.client_certificates else None,
    )


def initialised_directory(place: OperatorFolder, settings: Settings) -> Slapd:
    """The slapd of the folder, once `init` has made it. Raises UsageError."""
    if settings.directory.url:
        raise UsageError(
            "directory.url: annuaire externe, géré par son propre serveur / external directory, not run from here"
        )
    slapd = private_directory(place, settings)
    if not slapd.initialised:
        raise UsageError(f"{slapd.folder}: pas d'annuaire ici / no directory here (services.directory)")
    return slapd


def client_trust(folder: OperatorFolder) -> tuple[bytes, bytes]:
    """(authorities, lists of revocations) of the trust space as PEM: whose certificates may bind to the directory.

    Both empty when the trust space has no authority yet, or one that cannot be read: then no certificate binds.
    """
    try:
        anchors = [
            certificate
            for place in (
                folder.trust / "anchors",
                folder.trust / "anchors" / "clients",
                folder.trust / "intermediates",
            )
            if place.is_dir()
            for certificate in pem.read_certificate_folder(place)
        ]
        lists = [pem.read_crl(path) for path in pem.crl_files(folder.trust / "crl")] if anchors else []
    except (TrustSpaceError, OSError):
        return b"", b""
    authorities = b"".join(one.public_bytes(Encoding.PEM) for one in dict.fromkeys(anchors))
    return authorities, b"".join(one.public_bytes(Encoding.PEM) for one in lists)
