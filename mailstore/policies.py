"""What a domain or a mailbox asks of the proxy, beyond the operator's settings: names and values, opaque here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete, insert, select

from mailstore.core import Core, clean
from mailstore.tables import policies

# Asked for each message: built once.
_OF_SUBJECTS = select(policies.c.subject, policies.c.name, policies.c.value).where(
    policies.c.subject.in_(bindparam("subjects", expanding=True))
)


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
        with self._db.read() as connection:
            for subject, name, value in connection.execute(_OF_SUBJECTS, {"subjects": list(subjects)}):
                found[subject][name] = value
        return found
