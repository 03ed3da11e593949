"""Puts the rooms together for one operator: the only place that knows which concrete part serves which contract."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

import imap
from caducee.bearer import BearerError, BearerVerifier, Issuer, ProviderUnavailable
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.settings import Settings
from directory import Directory
from directory.rights import READER, WRITER, account_dn
from mailstore import Account, MailboxKind, Store, StoreError, read_master_key
from proxy import (
    ConfirmPolicy,
    CustodyPolicy,
    EncryptPolicy,
    HeaderPolicy,
    Protector,
    ProxyPolicy,
    SignPolicy,
    WithoutCertificate,
)
from proxy.tokens import TokenProcesses
from smime import ContentCipher, EncryptionPolicy
from trustspace import TrustSpace, Usage

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
    """Login by access token: (mailbox address, token, at) -> its account, None when the token is not its owner's. Without an
    address, the mailbox of whom the token names.

    None when no issuer is set. The callable raises ProviderUnavailable when the issuer's keys cannot be had, and
    SeveralMailboxes (mailstore) when a person with several gives no address.
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
        if not address:
            return store.account_of(identity.national_id, identity.address)
        account = store.find_account(address)
        owned = account is not None and account.active and account.national_id == identity.national_id
        return account if owned else None

    return login


def open_directory(folder: OperatorFolder, settings: Settings, *, write: bool = False) -> Directory:
    """The directory, private or external, with the least rights that do: the reader's, or to `write` the writer's.

    Connects on first use. Read anonymously, an entry on the red list is not seen, and its holder not encrypted to. Raises
    UsageError when `write` is wanted and there is no name to write under.
    """
    section = settings.directory
    url = section.url or private_directory(folder, settings).url
    ca_file = folder.resolve(section.ca_file) if section.ca_file else None
    name = _directory_writer(folder, settings) if write else _directory_reader(folder, settings)
    if name is None and not write:
        return Directory(url, ca_file=ca_file)
    if name is None:
        raise UsageError(
            "directory.bind_dn: nécessaire pour publier dans l'annuaire / needed to publish in the directory"
        )
    bind_dn, password_file, key = name
    return Directory(url, bind_dn=bind_dn, password=read_secret(password_file, key), ca_file=ca_file)


def _directory_reader(folder: OperatorFolder, settings: Settings) -> tuple[str, Path, str] | None:
    """(DN, password file, key that names it) to look up under; None to be nobody."""
    section = settings.directory
    if section.reader_dn:
        return section.reader_dn, folder.resolve(section.reader_password_file), "directory.reader_password_file"
    if not section.url and not section.bind_dn and folder.directory_reader_password.exists():
        return account_dn(READER), folder.directory_reader_password, "directory.reader_password_file"
    return _directory_writer(folder, settings)


def _directory_writer(folder: OperatorFolder, settings: Settings) -> tuple[str, Path, str] | None:
    """(DN, password file, key that names it) to publish under. Folders made before there were accounts have one name."""
    section, key = settings.directory, "directory.password_file"
    if section.bind_dn:
        file = folder.resolve(section.password_file) if section.password_file else folder.directory_password
        return section.bind_dn, file, key
    if section.url:
        return None
    if folder.directory_writer_password.exists():
        return account_dn(WRITER), folder.directory_writer_password, key
    return DIRECTORY_ADMIN, folder.directory_password, key


def make_protector(
    store: Store,
    directory: Directory,
    trust: TrustSpace,
    settings: Settings,
    tokens: TokenProcesses | None = None,
) -> Protector:
    """The proxy: keys and codes from the store (or from `tokens`), recipients' certificates from the directory."""
    local = frozenset(settings.operator.domains)
    return Protector(
        store,
        directory,
        proxy_policy(settings),
        signers=trust.path_checker(Usage.SIGNATURE),
        recipients=trust.path_checker(Usage.ENCRYPTION),
        is_local=lambda address: address.rpartition("@")[2] in local,
        tokens=tokens,
    )


def open_tokens(folder: OperatorFolder, settings: Settings) -> TokenProcesses | None:
    """The PKCS#11 tokens of the settings, None without any; their processes start when first needed."""
    section = settings.proxy
    if not section.pkcs11_library:
        return None
    pin = read_secret(folder.resolve(section.pkcs11_pin_file), "proxy.pkcs11_pin_file")
    return TokenProcesses(section.pkcs11_library, pin)


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
    return ProxyPolicy(
        sign,
        EncryptPolicy(section.encrypt),
        WithoutCertificate(section.without_certificate),
        ConfirmPolicy(section.confirm),
        CustodyPolicy(section.custody),
        EncryptionPolicy(default=ContentCipher(section.cipher), oaep=section.oaep, to_sender=section.encrypt_to_sender),
        HeaderPolicy(section.header_protection),
    )
