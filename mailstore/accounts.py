"""Mailboxes and their logins.

Invariants:
* a password is kept as Argon2id only (RFC 9106 §4, second recommended option: 64 MiB, 3 passes, 4 lanes);
* an address is that of one mailbox, and keeps its kind for life (mssante.md §4.2). Who may log in: `mailstore.logins`.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import Core, clean
from mailstore.errors import SeveralMailboxes
from mailstore.folders import insert_folder, subscribe_name
from mailstore.model import Account, MailboxKind, StoreError
from mailstore.senders import write_scram
from mailstore.sql import AnyRow
from mailstore.tables import accounts, erased_accounts

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
hashing = threading.BoundedSemaphore(4)


@lru_cache(maxsize=1)
def nobody() -> str:
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
        SubjectPublicKeyInfo. Raises StoreError when the address or the client key is taken or malformed, or the address
        was that of another holder's mailbox, now erased."""
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
            "password_hash": None if password is None else hash_secret(password),
            "client_key": None if client_key is None else _checked_key(client_key),
            "next_uid_validity": validity + len(DEFAULT_FOLDERS),
        }
        try:
            with self._db.write() as connection:
                _refuse_erased(connection, address, row["national_id"])
                account_id = connection.execute(insert(accounts).values(row).returning(accounts.c.id)).scalar_one()
                for number, (name, special_use) in enumerate(DEFAULT_FOLDERS, validity):
                    insert_folder(connection, self._names, account_id, name, special_use, number)
                    subscribe_name(connection, self._names, account_id, name)
                if password is not None:
                    write_scram(connection, self._fields, account_id, password)
                created = connection.execute(select(*ACCOUNT_COLUMNS).where(accounts.c.id == account_id)).one()
        except IntegrityError:
            raise StoreError(
                f"La boîte {address} ou sa clé de client existe déjà. / Mailbox {address} or its client key exists."
            ) from None
        return to_account(created)

    def accounts(self) -> list[Account]:
        """Every mailbox, by address."""
        with self._db.read() as connection:
            return [
                to_account(row) for row in connection.execute(select(*ACCOUNT_COLUMNS).order_by(accounts.c.address))
            ]

    def find_account(self, address: str) -> Account | None:
        """The mailbox of this address, active or not."""
        return self.find_accounts([address])[0]

    def find_accounts(self, addresses: Sequence[str]) -> list[Account | None]:
        """As `find_account` for each of several addresses, in one look."""
        logins = [_login(address) for address in addresses]
        with self._db.read() as connection:
            rows = connection.execute(_BY_ADDRESS, {"addresses": list(set(logins))}).all()
        found = {row.address: to_account(row) for row in rows}
        return [found.get(login) for login in logins]

    def account_of(self, national_id: str, preferred: str = "") -> Account | None:
        """The active mailbox of a person: the `preferred` address when it is theirs, else their only one; None when they have
        none. Raises SeveralMailboxes."""
        if not national_id:
            return None
        mine = (accounts.c.national_id == national_id, accounts.c.active)
        with self._db.read() as connection:
            rows = connection.execute(select(*ACCOUNT_COLUMNS).where(*mine).order_by(accounts.c.address)).all()
        found = [to_account(row) for row in rows]
        found = [one for one in found if one.address == _login(preferred)] or found
        if len(found) > 1:
            raise SeveralMailboxes(
                "Plusieurs boîtes à ce nom : indiquez l'adresse de l'une. / Several mailboxes are yours: give the address of one."
            )
        return found[0] if found else None

    def account_for_client_key(self, spki_sha256: bytes) -> Account | None:
        """The active mailbox whose client certificate carries this public key (SHA-256 of SubjectPublicKeyInfo)."""
        condition = (accounts.c.client_key == spki_sha256, accounts.c.active)
        with self._db.read() as connection:
            row = connection.execute(select(*ACCOUNT_COLUMNS).where(*condition)).first()
        return None if row is None else to_account(row)

    def set_password(self, address: str, password: str) -> None:
        """Replace the password. Raises StoreError when the mailbox is unknown or the password empty or too long."""
        hashed = hash_secret(password)
        with self._db.write() as connection:
            statement = update(accounts).where(accounts.c.address == _login(address)).values(password_hash=hashed)
            account_id = connection.execute(statement.returning(accounts.c.id)).scalar()
            if account_id is None:
                raise StoreError("Boîte inconnue. / Unknown mailbox.")
            write_scram(connection, self._fields, account_id, password)

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


def _refuse_erased(connection: Connection, address: str, national_id: object) -> None:
    """Raises StoreError when an address was that of somebody else's mailbox, now erased."""
    statement = select(erased_accounts.c.national_id).where(erased_accounts.c.address == address)
    before = connection.execute(statement).scalar()
    if before is not None and before != national_id:
        raise StoreError(
            f"L'adresse {address} a été celle d'un autre titulaire : elle n'est pas réattribuée. / Address {address} was "
            "somebody else's: it is not given again."
        )


ACCOUNT_COLUMNS = (
    accounts.c.id,
    accounts.c.address,
    accounts.c.kind,
    accounts.c.display_name,
    accounts.c.national_id,
    accounts.c.active,
    accounts.c.created_at,
)
_BY_ADDRESS = select(*ACCOUNT_COLUMNS).where(accounts.c.address.in_(bindparam("addresses", expanding=True)))


def to_account(row: AnyRow) -> Account:
    """A row of ACCOUNT_COLUMNS as a value."""
    return Account(
        row.id, row.address, MailboxKind(row.kind), row.display_name, row.national_id, row.active, row.created_at
    )


def _login(address: str) -> str:
    return clean(address.strip().lower(), 254)


def _checked_key(spki_sha256: bytes) -> bytes:
    if len(spki_sha256) != 32:
        raise StoreError("Empreinte de clé invalide. / Malformed key digest.")
    return spki_sha256


def hash_secret(password: str) -> str:
    """Argon2id of what a person chose. Raises StoreError when it is empty or too long."""
    if not password or len(password) > PASSWORD_LIMIT:
        raise StoreError("Mot de passe vide ou trop long. / Empty or overlong password.")
    with hashing:
        return _hasher.hash(password)


def verify_secret(hashed: str | None, secret: str) -> bool:
    """Whether `secret` is the hashed one; None takes the time of a wrong one."""
    with hashing:
        return verify(hashed or nobody(), secret) and hashed is not None


def verify(hashed: str, password: str) -> bool:
    """Whether this is the hashed password; never raises."""
    if len(password) > PASSWORD_LIMIT:
        hashed, password = nobody(), ""
    try:
        return _hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
