"""Puts the rooms together for one operator: the only place that knows which concrete part serves which contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import imap
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.settings import Settings
from directory import Directory
from mailstore import MailboxKind, Store, StoreError, read_master_key
from proxy import EncryptPolicy, Protector, ProxyPolicy, SignPolicy
from trustspace import Freshness, TrustSpace, Usage, is_practice, pem

DIRECTORY_ADMIN = "cn=operateur,dc=mssante,dc=fr"


def now() -> datetime:
    """The only clock: aware UTC. Everything below receives the time."""
    return datetime.now(UTC)


def database_url(folder: OperatorFolder, settings: Settings) -> str:
    """SQLAlchemy URL of the operator's database."""
    return settings.database.url or f"sqlite:///{folder.database.resolve()}"


def open_store(folder: OperatorFolder, settings: Settings) -> Store:
    """The mail store, with IMAP's ready-to-send summaries made at delivery. Raises UsageError naming the database."""
    if not settings.database.url and not folder.database.exists():
        raise UsageError(f"{folder.database}: base absente / no database. « caducee init » la crée / creates it.")
    try:
        return Store.open(
            database_url(folder, settings), folder.blobs, read_master_key(folder.master_key), index=imap.summarise
        )
    except StoreError as error:
        # The store does not know which of its files people must look at; a URL may hold a password.
        raise UsageError(f"{'database.url' if settings.database.url else folder.database}: {error}") from None


def open_trust(folder: OperatorFolder, settings: Settings) -> TrustSpace:
    """The trust space of this operator: its anchors, CRLs and white list. Raises UsageError when nobody is trusted."""
    anchors = folder.trust / "anchors"
    if not any(anchors.glob("*.*")):
        raise UsageError(
            f"{anchors}: aucune autorité de confiance ; y poser les racines de l'IGC-Santé (.pem ou .cer), "
            "et dans intermediates/, crl/ ce qui va avec / no trust anchor: put the IGC-Santé roots there"
        )
    if not settings.trust.practice and any(
        is_practice(one) for path in anchors.glob("*.*") for one in pem.read_certificates(path)
    ):
        raise UsageError(
            f"{anchors}: autorité d'exercice refusée, trust.practice = false / practice authority refused in production"
        )
    return TrustSpace(
        folder.trust,
        signer_cn=settings.trust.signer_cn,
        warn_after=timedelta(hours=settings.trust.warn_after_hours),
        stale_after=timedelta(hours=settings.trust.stop_after_hours),
    )


def trust_state(trust: TrustSpace, at: datetime) -> tuple[Freshness, str]:
    """How old the white list in force is, and why a newer one was refused ("" when none was)."""
    return trust.freshness(at), trust.alarm or ""


def open_directory(folder: OperatorFolder, settings: Settings, *, write: bool = False) -> Directory:
    """The directory, private or external, under the operator's own name when it has one there. Connects on first use.

    Read anonymously, an entry on the red list is not seen, and its holder not encrypted to. Raises UsageError when
    `write` is wanted and there is no name to write under.
    """
    section = settings.directory
    url = section.url or private_directory(folder, settings).url
    ca_file = folder.resolve(section.ca_file) if section.ca_file else None
    bind_dn = section.bind_dn or (DIRECTORY_ADMIN if not section.url else "")
    if not bind_dn and not write:
        return Directory(url, ca_file=ca_file)
    if not bind_dn:
        raise UsageError(
            "directory.bind_dn: nécessaire pour publier dans l'annuaire / needed to publish in the directory"
        )
    password_file = folder.resolve(section.password_file) if section.password_file else folder.directory_password
    return Directory(
        url, bind_dn=bind_dn, password=read_secret(password_file, "directory.password_file"), ca_file=ca_file
    )


def make_protector(store: Store, directory: Directory, trust: TrustSpace, settings: Settings) -> Protector:
    """The proxy: keys and codes from the store, recipients' certificates from the directory."""
    local = frozenset(settings.operator.domains)
    return Protector(
        store,
        directory,
        proxy_policy(settings),
        signers=trust.path_checker(Usage.SIGNATURE),
        recipients=trust.path_checker(Usage.ENCRYPTION),
        is_local=lambda address: address.rpartition("@")[2] in local,
    )


def read_secret(path: Path, key: str) -> str:
    """The content of a password file named by the settings key `key`."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"{key}: {path}: {error.strerror}") from None


def proxy_policy(settings: Settings) -> ProxyPolicy:
    """The protection policy of the settings, by kind of mailbox."""
    section = settings.proxy
    sign = {
        MailboxKind.PER: SignPolicy(section.sign_per),
        MailboxKind.CAB: SignPolicy(section.sign_per),
        MailboxKind.ORG: SignPolicy(section.sign_org),
        MailboxKind.APP: SignPolicy(section.sign_app),
    }
    return ProxyPolicy(sign, EncryptPolicy(section.encrypt))
