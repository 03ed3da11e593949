"""Folders of a mailbox.

Invariants:
* names are sealed at rest (a professional files by patient); they are found by a keyed digest;
* INBOX always exists, in any case of letters, and is never deleted;
* a folder's UIDVALIDITY is given once in the life of a mailbox (RFC 9051 §2.3.1.1).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from mailstore.core import Core
from mailstore.doings import Doer, trace_doing
from mailstore.model import ChangeKind, Folder, FolderExists, NoSuchFolder, StoreError
from mailstore.names import DELIMITER, Names, canonical_name, checked_name
from mailstore.sql import AnyRow, insert_missing
from mailstore.tables import accounts, acl, expunged, folders, messages, seen_by, subscriptions

FOLDERS_LIMIT = 2000  # per mailbox


class FolderVerbs(Core):
    """Verbs on folders."""

    def folders(self, account_id: int, viewer: int | None = None) -> list[Folder]:
        """Every folder of the mailbox, by name, with its counts; `unseen` is the viewer's own when one is given."""
        with self._db.read() as connection:
            rows = connection.execute(_OF_ACCOUNT[viewer is not None], {"account": account_id, "viewer": viewer}).all()
        return sorted((self._folder(row, viewer) for row in rows), key=lambda folder: folder.name)

    def folder(self, account_id: int, name: str, viewer: int | None = None) -> Folder:
        """One folder by name. Raises NoSuchFolder."""
        digest = self._names.digest(account_id, canonical_name(name))
        wanted = {"account": account_id, "named": digest, "viewer": viewer}
        with self._db.read() as connection:
            row = connection.execute(_BY_NAME[viewer is not None], wanted).first()
        if row is None:
            raise no_such_folder()
        return self._folder(row, viewer)

    def create_folder(self, account_id: int, name: str, special_use: str = "") -> Folder:
        """Create a folder; its superiors are not created. Raises FolderExists, or StoreError on a bad name."""
        name = checked_name(name)
        try:
            with self._changing() as changing:
                connection = changing.connection
                count = select(func.count()).select_from(folders).where(folders.c.account_id == account_id)
                if (connection.execute(count).scalar() or 0) >= FOLDERS_LIMIT:
                    raise StoreError("Trop de dossiers dans cette boîte. / Too many folders in this mailbox.")
                statement = (
                    update(accounts)
                    .where(accounts.c.id == account_id)
                    .values(next_uid_validity=accounts.c.next_uid_validity + 1)
                    .returning(accounts.c.next_uid_validity)
                )
                following = connection.execute(statement).scalar()
                if following is None:
                    raise StoreError("Boîte inconnue. / Unknown mailbox.")
                folder_id = insert_folder(connection, self._names, account_id, name, special_use, following - 1)
                inherit_rights(connection, folder_id, self._parents(account_id, name))
                changing.touch(ChangeKind.FOLDER, [folder_id])
        except IntegrityError:
            raise _folder_exists() from None
        return self.folder_by_id(folder_id)

    def _parents(self, account_id: int, name: str) -> list[bytes]:
        """The digests of the names whose rights a new folder takes: its nearest superior's, else INBOX's."""
        levels = name.split(DELIMITER)[:-1]
        names = [DELIMITER.join(levels[:depth]) for depth in range(len(levels), 0, -1)]
        return [self._names.digest(account_id, one) for one in (*names, "INBOX")]

    def delete_folder(self, account_id: int, name: str, *, doer: Doer | None = None) -> None:
        """Delete a folder and its messages; inferior names stay. With a `doer`, the audit trail names each message. Raises
        NoSuchFolder, StoreError for INBOX."""
        name = canonical_name(name)
        if name == "INBOX":
            raise StoreError("INBOX ne peut pas être supprimée. / INBOX cannot be deleted.")
        with self._changing() as changing:
            connection = changing.connection
            folder_id = find_folder(connection, self._names, account_id, name)
            lock_folders(connection, [folder_id])
            inside = select(messages.c.uid, messages.c.blob).where(messages.c.folder_id == folder_id)
            rows = connection.execute(inside.order_by(messages.c.uid)).all()
            trace_doing(connection, doer, "message.expunged", folder_id, rows)
            for table in (messages, expunged, seen_by, acl):
                connection.execute(delete(table).where(table.c.folder_id == folder_id))
            connection.execute(delete(folders).where(folders.c.id == folder_id))
            self._discard_unreferenced(connection, [row.blob for row in rows])
            changing.touch(ChangeKind.FOLDER, [folder_id])

    def rename_folder(self, account_id: int, old: str, new: str) -> None:
        """Rename a folder and its inferiors (RFC 9051 §6.3.6); ids, UIDs and UIDVALIDITY stay.

        Raises NoSuchFolder, FolderExists, StoreError on a bad name, for INBOX (its special rule is the IMAP server's)
        and when the new name lies under the old one."""
        old, new = canonical_name(old), checked_name(new)
        if old == "INBOX" or new.startswith(old + DELIMITER):
            raise StoreError("Ce changement de nom est impossible. / This renaming is not possible.")
        try:
            with self._changing() as changing:
                connection = changing.connection
                find_folder(connection, self._names, account_id, old)
                rows = connection.execute(
                    select(folders.c.id, folders.c.sealed_name).where(folders.c.account_id == account_id)
                ).all()
                renamed = []
                for row in rows:
                    name = self._names.unseal(account_id, row.sealed_name)
                    if name == old or name.startswith(old + DELIMITER):
                        self._rename(connection, account_id, row.id, checked_name(new + name[len(old) :]))
                        renamed.append(row.id)
                changing.touch(ChangeKind.FOLDER, renamed)
        except IntegrityError:
            raise _folder_exists() from None

    def _rename(self, connection: Connection, account_id: int, folder_id: int, name: str) -> None:
        values = {
            "name_digest": self._names.digest(account_id, name),
            "sealed_name": self._names.seal(account_id, name),
        }
        connection.execute(update(folders).where(folders.c.id == folder_id).values(values))

    def subscribe(self, account_id: int, name: str, on: bool) -> None:
        """Add a name to the subscriptions, or take it off. A name stays subscribed when its folder goes, and one may be
        subscribed that has no folder (RFC 9051 §6.3.7). Raises StoreError: bad name, too many."""
        name = canonical_name(name)
        with self._db.write() as connection:
            if on:
                mine = select(func.count()).select_from(subscriptions).where(subscriptions.c.account_id == account_id)
                if (connection.execute(mine).scalar() or 0) >= FOLDERS_LIMIT:
                    raise StoreError("Trop d'abonnements dans cette boîte. / Too many subscriptions in this mailbox.")
                subscribe_name(connection, self._names, account_id, checked_name(name))
                return
            digest = self._names.digest(account_id, name)
            mine_named = (subscriptions.c.account_id == account_id, subscriptions.c.name_digest == digest)
            connection.execute(delete(subscriptions).where(*mine_named))

    def subscriptions(self, account_id: int) -> list[str]:
        """The names subscribed, sorted, whether they have a folder or not."""
        statement = select(subscriptions.c.sealed_name).where(subscriptions.c.account_id == account_id)
        with self._db.read() as connection:
            sealed = connection.execute(statement).scalars().all()
        return sorted(self._names.unseal(account_id, one) for one in sealed)

    def set_retention(self, account_id: int, name: str, days: int | None) -> None:
        """Have messages removed from a folder `days` days after they came into it; None keeps them. Raises
        NoSuchFolder, StoreError when `days` is not 1 to 36500."""
        if days is not None and not 1 <= days <= 36_500:
            raise StoreError("Durée de conservation invalide. / Malformed retention.")
        with self._changing() as transaction:
            folder_id = find_folder(transaction.connection, self._names, account_id, canonical_name(name))
            statement = update(folders).where(folders.c.id == folder_id).values(retention_days=days)
            transaction.connection.execute(statement)

    def folder_by_id(self, folder_id: int, viewer: int | None = None) -> Folder:
        """One folder by its id. Raises NoSuchFolder."""
        with self._db.read() as connection:
            return self._read_folder(connection, folder_id, viewer)

    def _read_folder(self, connection: Connection, folder_id: int, viewer: int | None = None) -> Folder:
        row = connection.execute(_BY_ID[viewer is not None], {"folder": folder_id, "viewer": viewer}).first()
        if row is None:
            raise no_such_folder()
        return self._folder(row, viewer)

    def _folder(self, row: AnyRow, viewer: int | None) -> Folder:
        return Folder(
            id=row.id,
            account_id=row.account_id,
            name=self._names.unseal(row.account_id, row.sealed_name),
            special_use=row.special_use,
            subscribed=bool(row.subscribed),
            uid_validity=row.uid_validity,
            uid_next=row.uid_next,
            highest_modseq=row.highest_modseq,
            total=row.total,
            unseen=row.unseen if viewer is None or viewer == row.account_id else row.total - row.own_seen,
            deleted=row.deleted,
            size=row.size,
            deleted_size=row.deleted_size,
            retention_days=row.retention_days,
        )


def no_such_folder() -> NoSuchFolder:
    """The error to raise when a folder is not there."""
    return NoSuchFolder("Ce dossier n'existe pas. / This folder does not exist.")


def find_folder(connection: Connection, names: Names, account_id: int, name: str) -> int:
    """The id of a mailbox's folder. Raises NoSuchFolder."""
    condition = (folders.c.account_id == account_id, folders.c.name_digest == names.digest(account_id, name))
    folder_id: int | None = connection.execute(select(folders.c.id).where(*condition)).scalar()
    if folder_id is None:
        raise no_such_folder()
    return folder_id


def lock_folders(connection: Connection, folder_ids: list[int]) -> dict[int, AnyRow]:
    """Hold the rows of these folders until the end of the transaction, in the order of ids so that no two transactions
    wait for each other. Returns them by id; raises NoSuchFolder when one is gone."""
    columns = (
        folders.c.id,
        folders.c.account_id,
        folders.c.uid_validity,
        folders.c.uid_next,
        folders.c.highest_modseq,
    )
    statement = select(*columns).where(folders.c.id.in_(folder_ids)).order_by(folders.c.id).with_for_update()
    found = {row.id: row for row in connection.execute(statement)}
    if len(found) != len(set(folder_ids)):
        raise no_such_folder()
    return found


def insert_folder(
    connection: Connection,
    names: Names,
    account_id: int,
    name: str,
    special_use: str,
    uid_validity: int,
) -> int:
    """Write a new folder's row; returns its id. IntegrityError when the name is taken."""
    row = {
        "account_id": account_id,
        "name_digest": names.digest(account_id, name),
        "sealed_name": names.seal(account_id, name),
        "special_use": special_use,
        "uid_validity": uid_validity,
        "uid_next": 1,
        "highest_modseq": 1,
    }
    folder_id: int = connection.execute(insert(folders).values(row).returning(folders.c.id)).scalar_one()
    return folder_id


def inherit_rights(connection: Connection, folder_id: int, parents: list[bytes]) -> None:
    """Give a new folder the rights of the first of these names that exists in its mailbox (RFC 4314 §2)."""
    own = select(folders.c.account_id).where(folders.c.id == folder_id).scalar_subquery()
    statement = select(folders.c.id, folders.c.name_digest).where(
        folders.c.account_id == own, folders.c.name_digest.in_(parents), folders.c.id != folder_id
    )
    found = {row.name_digest: row.id for row in connection.execute(statement)}
    parent = next((found[digest] for digest in parents if digest in found), None)
    if parent is not None:
        kept = select(literal(folder_id), acl.c.account_id, acl.c.rights).where(acl.c.folder_id == parent)
        connection.execute(insert(acl).from_select(["folder_id", "account_id", "rights"], kept))


def subscribe_name(connection: Connection, names: Names, account_id: int, name: str) -> None:
    """Add a name to the subscriptions of a mailbox, unless it is there."""
    row = {
        "account_id": account_id,
        "name_digest": names.digest(account_id, name),
        "sealed_name": names.seal(account_id, name),
    }
    connection.execute(insert_missing(connection, subscriptions).values(row))


def _selected(*conditions: ColumnElement[bool]) -> tuple[Select[tuple[object, ...]], Select[tuple[object, ...]]]:
    """The rows of folders as `_folder` wants them: without a viewer, and with one."""
    named = exists().where(
        subscriptions.c.account_id == folders.c.account_id, subscriptions.c.name_digest == folders.c.name_digest
    )
    columns: list[Any] = [folders, named.label("subscribed")]
    own = select(func.count()).select_from(seen_by)
    own = own.where(seen_by.c.folder_id == folders.c.id, seen_by.c.account_id == bindparam("viewer", type_=BigInteger))
    plain: Select[tuple[object, ...]] = select(*columns).where(*conditions)
    viewed: Select[tuple[object, ...]] = select(*columns, own.scalar_subquery().label("own_seen")).where(*conditions)
    return plain, viewed


# Made once: putting these statements together takes longer than running them.
_OF_ACCOUNT = _selected(folders.c.account_id == bindparam("account"))
_BY_NAME = _selected(folders.c.account_id == bindparam("account"), folders.c.name_digest == bindparam("named"))
_BY_ID = _selected(folders.c.id == bindparam("folder"))


def _folder_exists() -> FolderExists:
    return FolderExists("Un dossier porte déjà ce nom. / A folder of that name already exists.")
