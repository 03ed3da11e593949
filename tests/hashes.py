"""Password hashes that cost little, for tests that are about something else. What the real ones cost, and that they are
RFC 9106's, `tests/mailstore/test_accounts.py` shows with the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from argon2 import PasswordHasher

from mailstore import accounts

REAL = accounts._hasher
"""The hasher that serves professionals."""


@contextmanager
def quick_hashes() -> Iterator[None]:
    """Argon2id with its smallest parameters, in this process."""
    accounts.nobody.cache_clear()
    with patch.object(accounts, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)):
        yield
    accounts.nobody.cache_clear()
