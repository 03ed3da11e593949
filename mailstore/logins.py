"""Who may log in: password, second factor, application passwords; guessing slowed down; each login traced.

Invariants:
* an unknown, inactive, locked or password-less mailbox costs an attacker the same time as a wrong password;
* ten failures in ten minutes close a login, known or not, until the window has passed; a hundred close a network address;
  fifty in a day lock the mailbox's password for a day, or until an administrator unlocks it. Failures are kept under a
  keyed digest: people type passwords where the login goes. The lock leaves application passwords and certificates alone,
  which cannot be guessed: nobody can be kept from their mail by wrong guesses;
* with a second factor (TOTP, RFC 6238), the password alone opens nothing: its six digits are given apart, or at the end
  of the password; a code serves once, in whatever process. Plain clients use application passwords, drawn here with
  100 bits of chance, so that one keyed hash is enough (as send codes, ADR 0006).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta

import pyotp
from sqlalchemy import Connection, delete, func, insert, or_, select, update

from mailstore.accounts import ACCOUNT_COLUMNS, hashing, nobody, to_account, verify
from mailstore.audit import insert_events
from mailstore.core import Core, clean
from mailstore.mailbox import AppPassword, LoginState
from mailstore.model import Account, Event, StoreError
from mailstore.sql import AnyRow
from mailstore.tables import accounts, app_passwords, login_failures

FAILURES_ALLOWED = 10
SOURCE_FAILURES_ALLOWED = 100
FAILURE_WINDOW = timedelta(minutes=10)
LOCK_AFTER = 50
LOCK_WINDOW = timedelta(days=1)
LOGIN_NOTED_EVERY = timedelta(minutes=5)
APP_PASSWORDS_LIMIT = 50  # per mailbox, in force
TOTP_STEP = 30  # seconds
_APP_PASSWORD = re.compile(r"[a-z2-7]{20}\Z")


class LoginVerbs(Core):
    """Verbs on logins. `source` is the network address of who asks, "" when there is none."""

    def authenticate(
        self,
        address: str,
        password: str,
        at: datetime,
        *,
        service: str = "imap",
        source: str = "",
        code: str = "",
    ) -> Account | None:
        """The active mailbox of this address and password (and TOTP `code`), or None: wrong, unknown, inactive, locked,
        or too many failures. A success is traced, at most once in LOGIN_NOTED_EVERY for the same service and source."""
        login = clean(address.strip().lower(), 254)
        digests = [self._login_digest(b"login", login), *([self._login_digest(b"source", source)] if source else [])]
        # The counts are read under the semaphore: parallel guesses overshoot the limits by three at most.
        with hashing:
            with self._db.read() as connection:
                tired = _too_many(connection, digests, at)
                statement = select(*ACCOUNT_COLUMNS, *_SECRETS).where(accounts.c.address == login)
                row = connection.execute(statement).first()
                spelt = self._app_digest(row.id, password) if row is not None and row.active and not tired else None
                app = _app_password(connection, row.id, spelt) if row is not None and spelt else None
            if row is not None and app is not None:
                self._app_used(app, at)
            elif tired or not self._right(row, password, code, at):
                if not tired:
                    self._failed(digests, row, service, source, at)
                return None
        if row is None:
            return None
        if app is None and row.locked_until is not None:  # the lock has run out
            with self._db.write() as connection:
                connection.execute(update(accounts).where(accounts.c.id == row.id).values(locked_until=None))
        self.note_login(row.id, at, service=service, source=source)
        return to_account(row)

    def note_login(self, account_id: int, at: datetime, *, service: str, source: str) -> None:
        """Trace a login: the mailbox's last one, and a line of the audit trail."""
        service, source = clean(service, 16), clean(source, 64)
        old = or_(
            accounts.c.last_login_at.is_(None),
            accounts.c.last_login_at <= at - LOGIN_NOTED_EVERY,
            accounts.c.last_login_service != service,
            accounts.c.last_login_source != source,
        )
        stale = select(accounts.c.address).where(accounts.c.id == account_id, old)
        with self._db.read() as connection:
            address = connection.execute(stale).scalar()
        if address is None:
            return
        values = {"last_login_at": at, "last_login_service": service, "last_login_source": source}
        with self._db.write() as connection:
            connection.execute(update(accounts).where(accounts.c.id == account_id).values(values))
            detail = {"principal": address, "service": service, "source": source}
            insert_events(connection, [Event("login.accepted", detail)], "", "", at)

    def login_state(self, address: str) -> LoginState:
        """What is known of a mailbox's logins. Raises StoreError when it is unknown."""
        with self._db.read() as connection:
            row = _known(connection, address)
        return LoginState(
            at=row.last_login_at,
            service=row.last_login_service or "",
            source=row.last_login_source or "",
            locked_until=row.locked_until,
            second_factor=row.sealed_totp is not None,
        )

    def unlock(self, address: str) -> None:
        """End a lock and forget the failures that led to it. Raises StoreError when the mailbox is unknown."""
        with self._db.write() as connection:
            row = _known(connection, address)
            connection.execute(update(accounts).where(accounts.c.id == row.id).values(locked_until=None))
            digest = self._login_digest(b"login", row.address)
            connection.execute(delete(login_failures).where(login_failures.c.login_digest == digest))

    def set_totp(self, address: str, secret: str | None) -> None:
        """Ask for a second factor from now on (`secret`: base32, at least 128 bits, RFC 4226 §4), or no more (None).
        Raises StoreError: unknown mailbox, malformed secret."""
        if secret is not None and not _good_secret(secret):
            raise StoreError("Secret TOTP invalide. / Malformed TOTP secret.")
        with self._db.write() as connection:
            row = _known(connection, address)
            sealed = None if secret is None else self._fields.seal(secret.encode("ascii"), totp_aad(row.id))
            values = {"sealed_totp": sealed, "totp_step": None}
            connection.execute(update(accounts).where(accounts.c.id == row.id).values(values))

    def add_app_password(self, address: str, label: str, at: datetime) -> str:
        """Draw a password for one mail client; it is shown this once. Raises StoreError: unknown mailbox, too many."""
        password = base64.b32encode(secrets.token_bytes(13)).decode("ascii").lower()[:20]
        with self._db.write() as connection:
            row = _known(connection, address)
            live = (app_passwords.c.account_id == row.id, app_passwords.c.revoked_at.is_(None))
            count = connection.execute(select(func.count()).select_from(app_passwords).where(*live)).scalar() or 0
            if count >= APP_PASSWORDS_LIMIT:
                raise StoreError("Trop de mots de passe d'application. / Too many application passwords.")
            values = {
                "account_id": row.id,
                "label": clean(label, 64),
                "digest": self._app_digest(row.id, password),
                "created_at": at,
            }
            connection.execute(insert(app_passwords).values(values))
        return "-".join(password[start : start + 4] for start in range(0, 20, 4))

    def app_passwords(self, address: str) -> list[AppPassword]:
        """A mailbox's application passwords, newest first, the revoked ones too. Raises StoreError when it is unknown."""
        with self._db.read() as connection:
            account_id = _known(connection, address).id
            statement = select(app_passwords).where(app_passwords.c.account_id == account_id)
            rows = connection.execute(statement.order_by(app_passwords.c.id.desc())).all()
        return [AppPassword(row.id, row.label, row.created_at, row.last_used_at, row.revoked_at) for row in rows]

    def revoke_app_password(self, address: str, number: int, at: datetime) -> None:
        """End an application password; the first date stays. Raises StoreError when the mailbox has none such."""
        with self._db.write() as connection:
            mine = (app_passwords.c.account_id == _known(connection, address).id, app_passwords.c.id == number)
            if connection.execute(select(app_passwords.c.id).where(*mine)).first() is None:
                raise StoreError("Mot de passe d'application inconnu. / Unknown application password.")
            live = (*mine, app_passwords.c.revoked_at.is_(None))
            connection.execute(update(app_passwords).where(*live).values(revoked_at=at))

    def _right(self, row: AnyRow | None, password: str, code: str, at: datetime) -> bool:
        """Whether password and code are right; always the time of one Argon2."""
        usable = row is not None and row.active and row.password_hash is not None
        locked = row is not None and row.locked_until is not None and row.locked_until > at
        factor = row is not None and row.sealed_totp is not None
        if factor and not code:
            password, code = password[:-6], password[-6:]
        right = verify(row.password_hash if row is not None and usable else nobody(), password)
        if row is None or not usable or locked or not right:
            return False
        return not factor or self._take_code(row, code, at)

    def _take_code(self, row: AnyRow, code: str, at: datetime) -> bool:
        """Whether a TOTP code is right and was not used before; a step of clock drift either way (RFC 6238 §5.2)."""
        secret = self._fields.unseal(row.sealed_totp, totp_aad(row.id)).decode("ascii")
        now = int(at.timestamp()) // TOTP_STEP
        generator = pyotp.HOTP(secret)
        given = code.strip().encode("utf-8", "replace")
        steps = [step for step in (now - 1, now, now + 1) if hmac.compare_digest(generator.at(step).encode(), given)]
        if not steps:
            return False
        unused = or_(accounts.c.totp_step.is_(None), accounts.c.totp_step < steps[-1])
        with self._db.write() as connection:
            statement = update(accounts).where(accounts.c.id == row.id, unused).values(totp_step=steps[-1])
            return connection.execute(statement).rowcount == 1

    def _failed(self, digests: list[bytes], row: AnyRow | None, service: str, source: str, at: datetime) -> None:
        with self._db.write() as connection:
            connection.execute(delete(login_failures).where(login_failures.c.at <= at - LOCK_WINDOW))
            connection.execute(insert(login_failures), [{"login_digest": digest, "at": at} for digest in digests])
            if row is None:
                return
            detail = {"principal": row.address, "service": service, "source": source}
            events = [Event("login.refused", detail)]
            if _count(connection, digests[0], at - LOCK_WINDOW) == LOCK_AFTER:
                until = at + LOCK_WINDOW
                connection.execute(update(accounts).where(accounts.c.id == row.id).values(locked_until=until))
                events.append(Event("login.locked", detail))
            insert_events(connection, events, "", "", at)

    def _app_used(self, app: AnyRow, at: datetime) -> None:
        if app.last_used_at is None or app.last_used_at <= at - LOGIN_NOTED_EVERY:
            with self._db.write() as connection:
                connection.execute(update(app_passwords).where(app_passwords.c.id == app.id).values(last_used_at=at))

    def _app_digest(self, account_id: int, password: str) -> bytes | None:
        """The digest of what may be an application password, however it was typed; None when it cannot be one."""
        spelt = password.replace("-", "").replace(" ", "").lower() if len(password) <= 64 else ""
        if not _APP_PASSWORD.match(spelt):
            return None
        return hmac.digest(
            self._fingerprint_key, b"app password\x00%d\x00" % account_id + spelt.encode(), hashlib.sha256
        )

    def _login_digest(self, kind: bytes, text: str) -> bytes:
        return hmac.digest(self._fingerprint_key, kind + b"\x00" + text.encode("utf-8", "replace"), hashlib.sha256)


_SECRETS = (
    accounts.c.password_hash,
    accounts.c.sealed_totp,
    accounts.c.locked_until,
)


def totp_aad(account_id: int) -> bytes:
    """What a sealed TOTP secret is bound to."""
    return b"totp\x00%d" % account_id


def _good_secret(secret: str) -> bool:
    try:
        return len(base64.b32decode(secret + "=" * (-len(secret) % 8))) >= 16
    except ValueError:
        return False


def _known(connection: Connection, address: str) -> AnyRow:
    row = connection.execute(select(accounts).where(accounts.c.address == clean(address.strip().lower(), 254))).first()
    if row is None:
        raise StoreError("Boîte inconnue. / Unknown mailbox.")
    return row


def _app_password(connection: Connection, account_id: int, digest: bytes) -> AnyRow | None:
    live = (
        app_passwords.c.digest == digest,
        app_passwords.c.account_id == account_id,
        app_passwords.c.revoked_at.is_(None),
    )
    return connection.execute(select(app_passwords).where(*live)).first()


def _count(connection: Connection, digest: bytes, since: datetime) -> int:
    recent = (login_failures.c.login_digest == digest, login_failures.c.at > since)
    return connection.execute(select(func.count()).select_from(login_failures).where(*recent)).scalar() or 0


def _too_many(connection: Connection, digests: list[bytes], at: datetime) -> bool:
    limits = (FAILURES_ALLOWED, SOURCE_FAILURES_ALLOWED)
    return any(
        _count(connection, digest, at - FAILURE_WINDOW) >= limit for digest, limit in zip(digests, limits, strict=False)
    )
