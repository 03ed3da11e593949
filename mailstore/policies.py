"""What a domain or a mailbox asks of the proxy, beyond the operator's settings: names and values, opaque here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, select

from mailstore.core import Core, clean
from mailstore.tables import policies


class PolicyVerbs(Core):
    """Verbs on policies. A subject is a mailbox's address or a domain, in lower case."""

    def set_policy(self, subject: str, name: str, value: str | None, at: datetime) -> None:
        """Set one value; None takes it away, so that it is inherited again."""
        subject = clean(subject.strip().lower(), 254)
        with self._db.write() as connection:
            connection.execute(delete(policies).where(policies.c.subject == subject, policies.c.name == name))
            if value is not None:
                row = {"subject": subject, "name": name, "value": value, "changed_at": at}
                connection.execute(insert(policies).values(row))

    def policies(self, subjects: Sequence[str]) -> dict[str, dict[str, str]]:
        """What these subjects ask for: name and value, by subject."""
        found: dict[str, dict[str, str]] = {subject: {} for subject in subjects}
        statement = select(policies).where(policies.c.subject.in_(list(subjects)))
        with self._db.read() as connection:
            for row in connection.execute(statement):
                found[row.subject][row.name] = row.value
        return found
