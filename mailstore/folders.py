"""Folders of a mailbox.

Invariants:
* names are sealed at rest (a professional files by patient); they are found by a keyed digest;
* INBOX always exists, in any case of letters, and is never deleted;
* a folder's UIDVALIDITY is given once in the life of a mailbox (RFC 9051 §2.3.1.1).
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import AnyRow, Core
from mailstore.model import ChangeKind, Folder, FolderExists, NoSuchFolder, StoreError
from mailstore.names import DELIMITER, Names, canonical_name, checked_name
from mailstore.tables import accounts, expunged, folders, messages

FOLDERS_LIMIT = 2000  # per mailbox


class FolderVerbs(Core):
    """Verbs on folders."""

    def folders(self, account_id: int) -> list[Folder]:
        """Every folder of the mailbox, by name, with its counts."""
        with self._db.read() as connection:
            rows = connection.execute(_with_counts(folders.c.account_id == account_id)).all()
        return sorted((self._folder(row) for row in rows), key=lambda folder: folder.name)

    def folder(self, account_id: int, name: str) -> Folder:
        """One folder by name. Raises NoSuchFolder."""
        digest = self._names.digest(account_id, canonical_name(name))
        condition = (folders.c.account_id == account_id, folders.c.name_digest == digest)
        with self._db.read() as connection:
            row = connection.execute(_with_counts(*condition)).first()
        if row is None:
            raise no_such_folder()
        return self._folder(row)

    def create_folder(self, account_id: int, name: str, special_use: str = "") -> Folder:
        """Create a folder; its superiors are not created. Raises FolderExists, or StoreError on a bad name."""
        name = checked_name(name)
        try:
            with self._db.write() as connection:
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
                insert_folder(connection, self._names, account_id, name, special_use, following - 1, subscribed=False)
        except IntegrityError:
            raise _folder_exists() from None
        created = self.folder(account_id, name)
        self._tell(ChangeKind.FOLDER, [created.id])
        return created

    def delete_folder(self, account_id: int, name: str) -> None:
        """Delete a folder and its messages; inferior names stay. Raises NoSuchFolder, StoreError for INBOX."""
        name = canonical_name(name)
        if name == "INBOX":
            raise StoreError("INBOX ne peut pas être supprimée. / INBOX cannot be deleted.")
        with self._db.write() as connection:
            folder_id = find_folder(connection, self._names, account_id, name)
            lock_folders(connection, [folder_id])
            blobs = connection.execute(select(messages.c.blob).where(messages.c.folder_id == folder_id)).scalars().all()
            for table in (messages, expunged):
                connection.execute(delete(table).where(table.c.folder_id == folder_id))
            connection.execute(delete(folders).where(folders.c.id == folder_id))
            self._discard_unreferenced(connection, blobs)
        self._tell(ChangeKind.FOLDER, [folder_id])

    def rename_folder(self, account_id: int, old: str, new: str) -> None:
        """Rename a folder and its inferiors (RFC 9051 §6.3.6); ids, UIDs and UIDVALIDITY stay.

        Raises NoSuchFolder, FolderExists, StoreError on a bad name, for INBOX (its special rule is the IMAP server's)
        and when the new name lies under the old one."""
        old, new = canonical_name(old), checked_name(new)
        if old == "INBOX" or new.startswith(old + DELIMITER):
            raise StoreError("Ce changement de nom est impossible. / This renaming is not possible.")
        try:
            with self._db.write() as connection:
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
        except IntegrityError:
            raise _folder_exists() from None
        self._tell(ChangeKind.FOLDER, renamed)

    def _rename(self, connection: Connection, account_id: int, folder_id: int, name: str) -> None:
        values = {
            "name_digest": self._names.digest(account_id, name),
            "sealed_name": self._names.seal(account_id, name),
        }
        connection.execute(update(folders).where(folders.c.id == folder_id).values(values))

    def subscribe(self, account_id: int, name: str, on: bool) -> None:
        """Set whether LSUB shows the folder. Raises NoSuchFolder."""
        with self._db.write() as connection:
            folder_id = find_folder(connection, self._names, account_id, canonical_name(name))
            connection.execute(update(folders).where(folders.c.id == folder_id).values(subscribed=on))

    def folder_by_id(self, folder_id: int) -> Folder:
        """One folder by its id. Raises NoSuchFolder."""
        with self._db.read() as connection:
            return self._read_folder(connection, folder_id)

    def _read_folder(self, connection: Connection, folder_id: int) -> Folder:
        row = connection.execute(_with_counts(folders.c.id == folder_id)).first()
        if row is None:
            raise no_such_folder()
        return self._folder(row)

    def _folder(self, row: AnyRow) -> Folder:
        return Folder(
            id=row.id,
            account_id=row.account_id,
            name=self._names.unseal(row.account_id, row.sealed_name),
            special_use=row.special_use,
            subscribed=row.subscribed,
            uid_validity=row.uid_validity,
            uid_next=row.uid_next,
            highest_modseq=row.highest_modseq,
            total=row.total,
            unseen=row.unseen,
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
    *,
    subscribed: bool,
) -> None:
    """Write a new folder's row; IntegrityError when the name is taken."""
    row = {
        "account_id": account_id,
        "name_digest": names.digest(account_id, name),
        "sealed_name": names.seal(account_id, name),
        "special_use": special_use,
        "subscribed": subscribed,
        "uid_validity": uid_validity,
        "uid_next": 1,
        "highest_modseq": 1,
    }
    connection.execute(insert(folders).values(row))


def _with_counts(*conditions: ColumnElement[bool]) -> Select[tuple[object, ...]]:
    here = messages.c.folder_id == folders.c.id
    total = select(func.count()).select_from(messages).where(here).scalar_subquery()
    unseen = select(func.count()).select_from(messages).where(here, ~messages.c.seen).scalar_subquery()
    return select(folders, total.label("total"), unseen.label("unseen")).where(*conditions)


def _folder_exists() -> FolderExists:
    return FolderExists("Un dossier porte déjà ce nom. / A folder of that name already exists.")
