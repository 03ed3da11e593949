"""Puts the rooms together for one operator: the only place that knows which concrete part serves which contract."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

import imap
from caducee.bearer import BearerError, BearerVerifier, Issuer, ProviderUnavailable
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.settings import Settings
from directory import Directory
from mailstore import Account, MailboxKind, Store, StoreError, read_master_key
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


def bearer_login(
    folder: OperatorFolder, settings: Settings, store: Store
) -> Callable[[str, str, datetime], Account | None] | None:
    """Login by access token: (mailbox address, token, at) -> its account, None when the token is not its owner's.

    None when no issuer is set. The callable raises ProviderUnavailable when the issuer's keys cannot be had.
    """
    section = settings.bearer
    if not section.issuer:
        return None
    keys_url = section.keys_url or f"{section.issuer.rstrip('/')}/protocol/openid-connect/certs"
    if not keys_url.startswith("https://"):
        raise UsageError("bearer.keys_url: https:// attendu / expected")
    ca_file = folder.resolve(section.ca_file) if section.ca_file else None
    try:
        authorities = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"bearer.ca_file: {ca_file}: {error.strerror or 'illisible / unreadable'}") from None
    client = httpx.Client(verify=authorities, timeout=5.0, trust_env=False, follow_redirects=False)
    verifier = BearerVerifier(Issuer(section.issuer, keys_url, section.audience, section.claims), client)

    def login(address: str, token: str, at: datetime) -> Account | None:
        try:
            identity = verifier.verify(token, at)
        except ProviderUnavailable:
            raise
        except BearerError:
            return None
        account = store.find_account(address)
        owned = account is not None and account.active and account.national_id == identity.national_id
        return account if owned else None

    return login


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
