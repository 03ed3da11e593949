"""Mailboxes and their logins.

Invariants:
* a password is kept as Argon2id only (RFC 9106 §4, second recommended option: 64 MiB, 3 passes, 4 lanes);
* an unknown, inactive or password-less mailbox costs an attacker the same time as a wrong password;
* ten failures in ten minutes close a login, known or not, until the window has passed. Failures are kept under a keyed
  digest: people type passwords where the login goes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from datetime import datetime, timedelta
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import AnyRow, Core, clean
from mailstore.folders import insert_folder
from mailstore.model import Account, MailboxKind, StoreError
from mailstore.tables import accounts, login_failures

FAILURES_ALLOWED = 10
FAILURE_WINDOW = timedelta(minutes=10)
PASSWORD_LIMIT = 1024  # characters; Argon2 reads everything it is given
DEFAULT_FOLDERS = (
    ("INBOX", ""),
    ("Brouillons", "\\Drafts"),
    ("Envoyés", "\\Sent"),
    ("Corbeille", "\\Trash"),
    ("Archives", "\\Archive"),
    ("Indésirables", "\\Junk"),
)
_ADDRESS = re.compile(r"[!-?A-~]+@[a-z0-9.-]+\Z")  # printable ASCII without space and @
_hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
# Each verification takes 64 MiB: a burst of logins waits instead of filling the memory.
_hashing = threading.BoundedSemaphore(4)


@lru_cache(maxsize=1)
def _nobody() -> str:
    """The hash verified when there is none: of a password nobody knows, with the same parameters."""
    return _hasher.hash(secrets.token_hex(16))


class AccountVerbs(Core):
    """Verbs on mailboxes. Addresses are compared in lower case."""

    def add_account(
        self,
        address: str,
        kind: MailboxKind,
        *,
        display_name: str,
        national_id: str,
        password: str | None = None,
        client_key: bytes | None = None,
        at: datetime,
    ) -> Account:
        """Create a mailbox with its default folders (RFC 6154 special uses). `client_key` is the SHA-256 of a
        SubjectPublicKeyInfo. Raises StoreError when the address or the client key is taken or malformed."""
        address = address.strip().lower()
        if not _ADDRESS.match(address) or len(address) > 254:
            raise StoreError("Adresse de boîte invalide. / Malformed mailbox address.")
        # Grows by one per folder: a name created again never gets a UIDVALIDITY it had (RFC 9051 §2.3.1.1).
        validity = max(1, int(at.timestamp()))
        row = {
            "address": address,
            "kind": MailboxKind(kind).value,
            "display_name": clean(display_name, 256),
            "national_id": clean(national_id, 64),
            "active": True,
            "created_at": at,
            "password_hash": None if password is None else _hash(password),
            "client_key": None if client_key is None else _checked_key(client_key),
            "next_uid_validity": validity + len(DEFAULT_FOLDERS),
        }
        try:
            with self._db.write() as connection:
                account_id = connection.execute(insert(accounts).values(row).returning(accounts.c.id)).scalar_one()
                for number, (name, special_use) in enumerate(DEFAULT_FOLDERS, validity):
                    insert_folder(connection, self._names, account_id, name, special_use, number, subscribed=True)
                created = connection.execute(select(*_COLUMNS).where(accounts.c.id == account_id)).one()
        except IntegrityError:
            raise StoreError(
                f"La boîte {address} ou sa clé de client existe déjà. / Mailbox {address} or its client key exists."
            ) from None
        return _account(created)

    def accounts(self) -> list[Account]:
        """Every mailbox, by address."""
        with self._db.read() as connection:
            return [_account(row) for row in connection.execute(select(*_COLUMNS).order_by(accounts.c.address))]

    def find_account(self, address: str) -> Account | None:
        """The mailbox of this address, active or not."""
        with self._db.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(accounts.c.address == _login(address))).first()
        return None if row is None else _account(row)

    def account_for_client_key(self, spki_sha256: bytes) -> Account | None:
        """The active mailbox whose client certificate carries this public key (SHA-256 of SubjectPublicKeyInfo)."""
        condition = (accounts.c.client_key == spki_sha256, accounts.c.active)
        with self._db.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(*condition)).first()
        return None if row is None else _account(row)

    def set_password(self, address: str, password: str) -> None:
        """Replace the password. Raises StoreError when the mailbox is unknown or the password empty or too long."""
        self._update(address, password_hash=_hash(password))

    def set_client_key(self, address: str, spki_sha256: bytes | None) -> None:
        """Replace (None: remove) the client key. Raises StoreError when another mailbox has it."""
        try:
            self._update(address, client_key=None if spki_sha256 is None else _checked_key(spki_sha256))
        except IntegrityError:
            raise StoreError("Cette clé est celle d'une autre boîte. / Another mailbox has this key.") from None

    def set_active(self, address: str, active: bool) -> None:
        """Open or close a mailbox to its logins; its mail stays. Raises StoreError when it is unknown."""
        self._update(address, active=active)

    def _update(self, address: str, **values: object) -> None:
        with self._db.write() as connection:
            statement = update(accounts).where(accounts.c.address == _login(address)).values(**values)
            if connection.execute(statement).rowcount != 1:
                raise StoreError("Boîte inconnue. / Unknown mailbox.")

    def authenticate(self, address: str, password: str, at: datetime) -> Account | None:
        """The active mailbox of this address and password, or None: wrong, unknown, inactive, or too many failures."""
        login = _login(address)
        digest = hmac.digest(self._fingerprint_key, b"login\x00" + login.encode("utf-8", "replace"), hashlib.sha256)
        # The count is read under the semaphore: parallel guesses overshoot the limit by three at most.
        with _hashing:
            with self._db.read() as connection:
                recent = (login_failures.c.login_digest == digest, login_failures.c.at > at - FAILURE_WINDOW)
                failures = connection.execute(select(func.count()).select_from(login_failures).where(*recent)).scalar()
                row = connection.execute(
                    select(*_COLUMNS, accounts.c.password_hash).where(accounts.c.address == login)
                ).first()
            if failures is not None and failures >= FAILURES_ALLOWED:
                return None
            known = row is not None and row.active and row.password_hash is not None
            right = _verify(row.password_hash if row is not None and known else _nobody(), password)
            if row is not None and known and right:
                return _account(row)
            with self._db.write() as connection:
                connection.execute(delete(login_failures).where(login_failures.c.at <= at - FAILURE_WINDOW))
                connection.execute(insert(login_failures).values(login_digest=digest, at=at))
            return None


_COLUMNS = (
    accounts.c.id,
    accounts.c.address,
    accounts.c.kind,
    accounts.c.display_name,
    accounts.c.national_id,
    accounts.c.active,
    accounts.c.created_at,
)


def _account(row: AnyRow) -> Account:
    return Account(
        row.id, row.address, MailboxKind(row.kind), row.display_name, row.national_id, row.active, row.created_at
    )


def _login(address: str) -> str:
    return clean(address.strip().lower(), 254)


def _checked_key(spki_sha256: bytes) -> bytes:
    if len(spki_sha256) != 32:
        raise StoreError("Empreinte de clé invalide. / Malformed key digest.")
    return spki_sha256


def _hash(password: str) -> str:
    if not password or len(password) > PASSWORD_LIMIT:
        raise StoreError("Mot de passe vide ou trop long. / Empty or overlong password.")
    with _hashing:
        return _hasher.hash(password)


def _verify(hashed: str, password: str) -> bool:
    if len(password) > PASSWORD_LIMIT:
        hashed, password = _nobody(), ""
    try:
        return _hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
