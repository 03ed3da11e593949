"""Who else may use a mailbox's folders (RFC 4314): an ORG or CAB mailbox that several professionals read.

Invariants: the mailbox itself has every right on its folders, always; another account has those given to it, folder by
folder, and none otherwise; rights are kept in RFC order, each once. These verbs keep rights; the server asks before it
acts.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from mailstore.accounts import ACCOUNT_COLUMNS, to_account
from mailstore.core import Core
from mailstore.folders import no_such_folder
from mailstore.model import Account, StoreError
from mailstore.tables import accounts, acl, folders, seen_by

ALL_RIGHTS = "lrswipkxtea"  # RFC 4314 §2.1, in its order


class SharingVerbs(Core):
    """Verbs on access rights."""

    def rights(self, folder_id: int, account_id: int) -> str:
        """What an account may do with a folder: letters of ALL_RIGHTS, "" for nothing. Raises NoSuchFolder."""
        with self._db.read() as connection:
            owner = _owner(connection, folder_id)
            if owner == account_id:
                return ALL_RIGHTS
            mine = (acl.c.folder_id == folder_id, acl.c.account_id == account_id)
            return connection.execute(select(acl.c.rights).where(*mine)).scalar() or ""

    def acl(self, folder_id: int) -> dict[str, str]:
        """Who has which rights on a folder, by address, its mailbox first. Raises NoSuchFolder."""
        statement = (
            select(accounts.c.address, acl.c.rights)
            .join(accounts, accounts.c.id == acl.c.account_id)
            .where(acl.c.folder_id == folder_id)
            .order_by(accounts.c.address)
        )
        with self._db.read() as connection:
            owner = _owner(connection, folder_id)
            address = connection.execute(select(accounts.c.address).where(accounts.c.id == owner)).scalar_one()
            return {address: ALL_RIGHTS} | {row.address: row.rights for row in connection.execute(statement)}

    def set_acl(self, folder_id: int, address: str, rights: str) -> None:
        """Give an account exactly these rights on a folder; "" takes all of them. Raises NoSuchFolder, StoreError: unknown
        account, unknown right, or the mailbox itself, whose rights do not change."""
        kept = checked_rights(rights)
        with self._db.write() as connection:
            owner = _owner(connection, folder_id)
            account_id = _account_id(connection, address)
            if account_id == owner:
                raise StoreError("Une boîte garde tous ses droits. / A mailbox keeps all its rights.")
            _replace(connection, folder_id, account_id, kept)

    def share(self, account_id: int, address: str, rights: str) -> None:
        """As `set_acl`, on every folder of a mailbox; folders made later take their superior's rights."""
        kept = checked_rights(rights)
        with self._db.write() as connection:
            reader = _account_id(connection, address)
            if reader == account_id:
                raise StoreError("Une boîte garde tous ses droits. / A mailbox keeps all its rights.")
            statement = select(folders.c.id).where(folders.c.account_id == account_id)
            for folder_id in connection.execute(statement).scalars().all():
                _replace(connection, folder_id, reader, kept)

    def shared_with(self, account_id: int) -> list[Account]:
        """The active mailboxes on a folder of which an account holds any right, by address. Whether it may know of a folder
        is for its `rights` to say: without `l` a folder is not listed, but may be read by its name (RFC 4314 §4)."""
        held = (
            select(folders.c.account_id)
            .join(acl, acl.c.folder_id == folders.c.id)
            .where(acl.c.account_id == account_id)
        )
        statement = select(*ACCOUNT_COLUMNS).where(accounts.c.id.in_(held), accounts.c.active)
        with self._db.read() as connection:
            return [to_account(row) for row in connection.execute(statement.order_by(accounts.c.address))]


def checked_rights(rights: str) -> str:
    """Rights in RFC order, each once; the obsolete `c` and `d` stand for what they were (RFC 4314 §2.1.1). Raises
    StoreError on an unknown letter."""
    spelt = rights.replace("c", "kx").replace("d", "xte")
    if not set(spelt) <= set(ALL_RIGHTS):
        raise StoreError(f"Droits inconnus ; attendus : {ALL_RIGHTS}. / Unknown rights; expected: {ALL_RIGHTS}.")
    return "".join(letter for letter in ALL_RIGHTS if letter in spelt)


def _owner(connection: Connection, folder_id: int) -> int:
    owner: int | None = connection.execute(select(folders.c.account_id).where(folders.c.id == folder_id)).scalar()
    if owner is None:
        raise no_such_folder()
    return owner


def _account_id(connection: Connection, address: str) -> int:
    statement = select(accounts.c.id).where(accounts.c.address == address.strip().lower())
    account_id: int | None = connection.execute(statement).scalar()
    if account_id is None:
        raise StoreError("Boîte inconnue. / Unknown mailbox.")
    return account_id


def _replace(connection: Connection, folder_id: int, account_id: int, rights: str) -> None:
    connection.execute(delete(acl).where(acl.c.folder_id == folder_id, acl.c.account_id == account_id))
    if rights:
        connection.execute(insert(acl).values(folder_id=folder_id, account_id=account_id, rights=rights))
    else:
        mine = (seen_by.c.folder_id == folder_id, seen_by.c.account_id == account_id)
        connection.execute(delete(seen_by).where(*mine))
