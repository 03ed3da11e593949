"""A store on a database of its own, once on SQLite and once on PostgreSQL; a mailbox in it; a fixed time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstore import Account, Store
from tests.hashes import quick_hashes
from tests.mailstore.helpers import make_account, open_store, use_database
from tests.postgres import PrivatePostgres

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="package", autouse=True)
def quick_passwords() -> Iterator[None]:
    with quick_hashes():
        yield


@pytest.fixture(scope="session")
def empty_postgres(private_postgres: PrivatePostgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a PostgreSQL database that holds an empty store: each test gets a copy."""
    folder = tmp_path_factory.mktemp("template")
    url = private_postgres.database()
    use_database(folder, url)
    open_store(folder, create=True).close()
    return url.rpartition("/")[2]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for one store, on each kind of database: `open_store(place, create=True)` makes it there."""
    if request.param == "sqlite":
        yield tmp_path
        return
    server: PrivatePostgres = request.getfixturevalue("private_postgres")
    url = server.database(request.getfixturevalue("empty_postgres"))
    use_database(tmp_path, url)
    yield tmp_path
    server.drop(url)


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    """An empty store under `place`."""
    opened = open_store(place, create=True)
    yield opened
    opened.close()


@pytest.fixture
def account(store: Store) -> Account:
    """A mailbox without a password (hashing takes its time)."""
    return make_account(store, "alice@medecin.example")
