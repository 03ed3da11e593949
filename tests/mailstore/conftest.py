"""A store on files of its own, a mailbox in it, and a fixed time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstore import Account, Store
from tests.mailstore.helpers import make_account, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store under `tmp_path`."""
    opened = open_store(tmp_path, create=True)
    yield opened
    opened.close()


@pytest.fixture
def account(store: Store) -> Account:
    """A mailbox without a password (hashing takes its time)."""
    return make_account(store, "alice@medecin.example")
