"""Giving back what a dead worker held: leases are released at the start of the worker that takes its name."""

from __future__ import annotations

from sqlalchemy import update

from mailstore.core import Core
from mailstore.tables import deposits, outgoing


class LeaseVerbs(Core):
    """Verbs on leases of any kind of row."""

    def release_leases(self, *owners: str) -> int:
        """End the leases that these owners hold, so that their rows are due again; returns how many there were.

        Only the one process that bears a name may give it, before it leases anything: what it finds was held by its
        former self, which `kill -9` or a power cut ended. Names that nobody bears any more may be given by anybody.
        """
        released = 0
        with self._db.write() as connection:
            for table in (outgoing, deposits):
                statement = (
                    update(table)
                    .where(table.c.lease_owner.in_(owners), table.c.lease_until.is_not(None))
                    .values(lease_owner="", lease_until=None)
                )
                released += connection.execute(statement).rowcount
        return released
