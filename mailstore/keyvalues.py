"""Send codes and server-side keys, as values. Part of `mailstore.model`, which says what holds for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SendCode:
    """A send code as the proxy sees it again: never the code. `max_uses` None means unlimited; `scope` is the proxy's."""

    account_id: int
    code_id: str
    created_at: datetime
    expires_at: datetime
    max_uses: int | None
    uses: int
    revoked_at: datetime | None
    label: str = ""
    scope: str = ""
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A server-side key without its private part. `holder` is a mailbox or a domain; `chain_pem` is empty while its
    certificate is waited for; `place` is "" for a software key, else the kind of token it lives in."""

    id: int
    holder: str
    usage: str
    chain_pem: bytes
    place: str
    created_at: datetime
    retired_at: datetime | None
    destruction_asked_by: str
    destroyed_by: str
    destroyed_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A server-side key of a mailbox, its private part unsealed: keep it in memory only as long as needed."""

    id: int
    address: str
    usage: str
    chain_pem: bytes
    private_key: bytes = field(repr=False)
    created_at: datetime
    retired_at: datetime | None
