"""`caducee init`: makes a complete operator in an empty folder, or leaves nothing behind.

With a practice authority, certificates come from it and the operator works at once. Without one, the TLS key comes with
a certificate request for IGC-Santé and a self-signed certificate that mail clients must be told to accept meanwhile.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from caducee.errors import UsageError
from caducee.folder import DMP_AUTHENTICATION, DMP_SIGNATURE, SERVER, OperatorFolder
from caducee.private_directory import private_directory
from caducee.settings import Settings
from caducee.settings_file import settings_file
from caducee.wiring import database_url
from directory import Entry
from directory.rights import READER, WRITER
from mailstore import Store, create_master_key
from trustspace import ListedDomain, PracticeAuthority, pem

_SELF_SIGNED = timedelta(days=90)


def create_operator(
    root: Path,
    settings: Settings,
    *,
    at: datetime,
    authority: PracticeAuthority | None = None,
    entries: list[Entry] | None = None,
) -> OperatorFolder:
    """Create the folder with settings, keys, database, TLS material and, if it runs here, the directory.

    `entries` are the directory's first entries. Raises UsageError when the folder is not empty; on any failure what was
    made is removed again.
    """
    folder = OperatorFolder(root)
    if root.exists() and any(root.iterdir()):
        raise UsageError(
            f"{root} n'est pas vide : donner un dossier neuf / is not empty: give a new folder",
        )
    existed = root.exists()
    # The folder itself may be entered: slapd runs as another user inside it. What is secret is 0700 below.
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    # Whoever makes this one owns what follows: of two that run at once, the second must not remove the first's.
    folder.keys.mkdir(mode=0o700)
    try:
        _create(folder, settings, at, authority, entries or [])
    except BaseException:
        remove_operator(root, keep=existed)
        raise
    return folder


def remove_operator(root: Path, *, keep: bool) -> None:
    """Remove what a failed creation left; the folder itself is kept, empty, when it was there before."""
    for child in root.iterdir() if keep else ():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    if not keep:
        shutil.rmtree(root, ignore_errors=True)


def _create(
    folder: OperatorFolder, settings: Settings, at: datetime, authority: PracticeAuthority | None, entries: list[Entry]
) -> None:
    pem.private_folder(folder.blobs)
    pem.private_folder(folder.broker)
    # Private: the database's URL may hold a password.
    pem.write_private(folder.settings, settings_file(settings).encode())
    create_master_key(folder.master_key)
    for password in (folder.directory_password, folder.directory_reader_password, folder.directory_writer_password):
        pem.write_private(password, secrets.token_urlsafe(24).encode())
    if authority is None:
        _self_signed(folder, settings, at)
        for name in ("anchors", "intermediates", "crl"):
            (folder.trust / name).mkdir(parents=True)
    else:
        _certified(folder, settings, authority, at)
    if settings.services.mail or settings.services.deposits:
        Store.create(database_url(folder, settings), folder.blobs, folder.master_key.read_bytes()).close()
        if not settings.database.url:
            folder.database.chmod(0o600)
    if settings.services.directory:
        _create_directory(folder, settings, entries)


def _certified(folder: OperatorFolder, settings: Settings, authority: PracticeAuthority, at: datetime) -> None:
    operator = settings.operator
    server = authority.issue_server(
        operator.hostname,
        operator.organisation,
        operator.structure_id,
        operator.department,
        dns=[f"autoconfig.{domain}" for domain in operator.domains] + ["localhost"],
        ips=[settings.listen.local_host],
        at=at,
    )
    server.write(folder.keys, SERVER)
    for name, usage in ((DMP_AUTHENTICATION, "auth"), (DMP_SIGNATURE, "sign")):
        authority.issue_organisation(
            f"{operator.organisation[:59]} {usage.upper()}",  # RFC 5280 ub-common-name: 64
            operator.organisation,
            operator.structure_id,
            operator.department,
            usage="auth" if usage == "auth" else "sign",
            at=at,
        ).write(folder.keys, name)
    authority.copy_trust(folder.trust)


def _self_signed(folder: OperatorFolder, settings: Settings, at: datetime) -> None:
    """The key and request to send to the national authority (mssante.md §2), and a certificate to wait with."""
    operator = settings.operator
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    parts = (
        (NameOID.COUNTRY_NAME, "FR"),
        (NameOID.STATE_OR_PROVINCE_NAME, operator.department),
        (NameOID.ORGANIZATION_NAME, operator.organisation),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, operator.structure_id),
        (NameOID.COMMON_NAME, operator.hostname),
    )
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts if value])
    hosts = x509.SubjectAlternativeName([x509.DNSName(operator.hostname)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(hosts, False)
        .sign(key, hashes.SHA256())
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(minutes=5))
        .not_valid_after(at + _SELF_SIGNED)
        .add_extension(hosts, False)
        .sign(key, hashes.SHA256())
    )
    pem.write_private(folder.keys / f"{SERVER}.key", pem.key_to_pem(key))
    pem.write_public(folder.keys / f"{SERVER}.pem", pem.chain_to_pem((certificate,)))
    pem.write_public(folder.keys / f"{SERVER}.csr", request.public_bytes(Encoding.PEM))


def _create_directory(folder: OperatorFolder, settings: Settings, entries: list[Entry]) -> None:
    slapd = private_directory(folder, settings)
    accounts = {READER: folder.directory_reader_password, WRITER: folder.directory_writer_password}
    passwords = {name: path.read_text().strip() for name, path in accounts.items()}
    slapd.initialise(entries, folder.directory_password.read_text().strip(), passwords)


def publish_practice_list(
    authority: PracticeAuthority,
    operators: Sequence[tuple[OperatorFolder, Settings]],
    at: datetime,
    *,
    others: Sequence[ListedDomain] = (),
) -> None:
    """Sign a practice white list with these operators' domains (and `others`), and give it to each of them."""
    entries = [*others]
    entries += [
        ListedDomain.of(
            domain, pem.read_certificates(folder.keys / f"{SERVER}.pem")[0], description=settings.operator.organisation
        )
        for folder, settings in operators
        for domain in settings.operator.domains
    ]
    authority.publish_white_list(entries, at)
    for folder, _ in operators:
        authority.copy_trust(folder.trust)
