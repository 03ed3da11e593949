"""Originals: the whole message that a receipt about its documents is to give back (mssante.md §3.5), until that is told.

Invariants:
* what is kept is what the sender sent, as it came: encrypted when it came encrypted. It is a content like any other: sealed at
  rest, shared with the message that has the same octets, removed by the sweep once nothing refers to it;
* it goes with the first end of its deposit, whatever that is, and with the mailbox it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select

from mailstore.core import Core
from mailstore.tables import deposit_originals

_READ = select(deposit_originals.c.blob).where(deposit_originals.c.deposit_id == bindparam("number"))
_TAKE = (
    delete(deposit_originals)
    .where(deposit_originals.c.deposit_id.in_(bindparam("numbers", expanding=True)))
    .returning(deposit_originals.c.blob)
)
_TAKE_ALL = (
    delete(deposit_originals)
    .where(deposit_originals.c.mailbox == bindparam("address"))
    .returning(deposit_originals.c.blob)
)


class OriginalVerbs(Core):
    """Verbs on originals."""

    def deposit_original(self, deposit_id: int) -> bytes:
        """The message to give back with the receipt of a deposit, b"" when none is kept (any more). Raises BlobDamaged,
        NoSuchMessage when its content is gone."""
        with self._db.read() as connection:
            blob = connection.execute(_READ, {"number": deposit_id}).scalar()
        return b"" if blob is None else self._blobs.read(blob)

    def release_original(self, deposit_id: int) -> None:
        """What it was kept for is told."""
        with self._db.write() as connection:
            self._discard_unreferenced(connection, take_originals(connection, [deposit_id]))


def take_originals(connection: Connection, numbers: Sequence[int]) -> list[str]:
    """End what these deposits keep; the blobs, for the transaction to discard."""
    return list(connection.execute(_TAKE, {"numbers": list(numbers)}).scalars())


def take_originals_of(connection: Connection, address: str) -> list[str]:
    """The same for all deposits of a mailbox that is erased."""
    return list(connection.execute(_TAKE_ALL, {"address": address}).scalars())
