"""How a login proves itself without showing its password (SCRAM), and for which other mailboxes it may send.

Invariants: a verifier is sealed at rest and made only when a password is set, from that password; delegations are
between mailboxes of this operator; a closed mailbox delegates nothing and is delegated nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.core import Core
from mailstore.crypto import KeyRing
from mailstore.model import StoreError
from mailstore.tables import accounts, delegations, scram_verifiers

ITERATIONS = 4096
"""RFC 7677 §4 asks for 4096 at least; the derivation is the client's work at each login, on phones too."""
_SALT = 16


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps to check SCRAM-SHA-256 (RFC 5802 §3): never the password."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def scram_verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramVerifier:
    """The verifier of a password (RFC 5802 §3)."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode("utf-8"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return ScramVerifier(
        salt, iterations, hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")
    )


def prepared(password: str) -> str:
    """A password as every SCRAM client computes with it (SASLprep, RFC 4013): the key `²` of French keyboards is a 2 there. One
    that may not be prepared (controls, unassigned letters) is taken as it is."""
    spaced = "".join(
        " " if stringprep.in_table_c12(one) else one for one in password if not stringprep.in_table_b1(one)
    )
    plain = unicodedata.normalize("NFKC", spaced)
    return password if any(unfit(one) for one in plain for unfit in _UNFIT) else plain


_UNFIT = (
    stringprep.in_table_a1,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class SenderVerbs(Core):
    """Verbs on SCRAM verifiers and delegations."""

    def scram(self, address: str) -> ScramVerifier | None:
        """The verifier of an active mailbox that has one. None when a second factor is asked for, which SCRAM cannot
        carry, and from a lock until the next login by password: see `mailstore.logins`."""
        statement = (
            select(scram_verifiers)
            .join(accounts, accounts.c.id == scram_verifiers.c.account_id)
            .where(
                accounts.c.address == address.lower(),
                accounts.c.active,
                accounts.c.sealed_totp.is_(None),
                accounts.c.locked_until.is_(None),
            )
        )
        with self._db.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        keys = self._fields.unseal(row.sealed_keys, scram_aad(row.account_id))
        return ScramVerifier(row.salt, row.iterations, keys[:32], keys[32:])

    def decoy_scram(self, address: str) -> ScramVerifier:
        """A verifier no password satisfies, the same each time for an address: who is not here looks as who is."""
        salt = hmac.digest(self._fingerprint_key, b"scram\x00" + address.lower().encode("utf-8"), "sha256")[:_SALT]
        return ScramVerifier(salt, ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))

    def add_delegation(self, owner: str, delegate: str, at: datetime) -> None:
        """Let `delegate` send as `owner`. Raises StoreError when one of them is no mailbox here."""
        with self._db.write() as connection:
            pair = self._pair(connection, owner, delegate)
            try:
                connection.execute(insert(delegations).values(**pair, created_at=at))
            except IntegrityError:
                raise StoreError("Délégation déjà donnée. / Delegation already given.") from None

    def remove_delegation(self, owner: str, delegate: str) -> None:
        """End a delegation. Raises StoreError when there is none."""
        with self._db.write() as connection:
            pair = self._pair(connection, owner, delegate)
            condition = (
                delegations.c.owner_id == pair["owner_id"],
                delegations.c.delegate_id == pair["delegate_id"],
            )
            if not connection.execute(delete(delegations).where(*condition)).rowcount:
                raise StoreError("Aucune délégation. / No delegation.")

    def may_send_as(self, account_id: int) -> frozenset[str]:
        """The active mailboxes for which this one may send, its own apart."""
        statement = (
            select(accounts.c.address)
            .join(delegations, delegations.c.owner_id == accounts.c.id)
            .where(delegations.c.delegate_id == account_id, accounts.c.active)
        )
        with self._db.read() as connection:
            return frozenset(connection.execute(statement).scalars())

    def delegations(self) -> list[tuple[str, str]]:
        """(owner, delegate) pairs, in order."""
        owner, delegate = accounts.alias(), accounts.alias()
        statement = (
            select(owner.c.address, delegate.c.address)
            .select_from(delegations)
            .join(owner, owner.c.id == delegations.c.owner_id)
            .join(delegate, delegate.c.id == delegations.c.delegate_id)
            .order_by(owner.c.address, delegate.c.address)
        )
        with self._db.read() as connection:
            return [(first, second) for first, second in connection.execute(statement)]

    def _pair(self, connection: Connection, owner: str, delegate: str) -> dict[str, int]:
        ids = []
        for address in (owner, delegate):
            found = connection.execute(select(accounts.c.id).where(accounts.c.address == address.lower())).scalar()
            if found is None:
                raise StoreError(f"{address} : boîte inconnue. / unknown mailbox.")
            ids.append(int(found))
        if ids[0] == ids[1]:
            raise StoreError("Une boîte ne se délègue pas à elle-même. / A mailbox needs no delegation to itself.")
        return {"owner_id": ids[0], "delegate_id": ids[1]}


def write_scram(connection: Connection, fields: KeyRing, account_id: int, password: str) -> None:
    """Replace the verifier of a mailbox, in the transaction that sets its password."""
    verifier = scram_verifier(password, secrets.token_bytes(_SALT))
    keys = fields.seal(verifier.stored_key + verifier.server_key, scram_aad(account_id))
    connection.execute(delete(scram_verifiers).where(scram_verifiers.c.account_id == account_id))
    connection.execute(
        insert(scram_verifiers).values(
            account_id=account_id, salt=verifier.salt, iterations=verifier.iterations, sealed_keys=keys
        )
    )


def drop_scram(connection: Connection, account_id: int) -> None:
    """Remove the verifier of a mailbox: with a second factor, its password alone no longer opens it."""
    connection.execute(delete(scram_verifiers).where(scram_verifiers.c.account_id == account_id))


def scram_aad(account_id: int) -> bytes:
    """What sealed SCRAM keys are bound to."""
    return b"scram\x00" + str(account_id).encode("ascii")
