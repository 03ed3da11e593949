"""A fresh store for each test, copied from one made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hashes import quick_hashes
from tests.imap import dovecot
from tests.imap.dovecot import Dovecot
from tests.imap.support import House, make_house, open_house
from tests.postgres import PrivatePostgres


@pytest.fixture(scope="package", autouse=True)
def quick_passwords() -> Iterator[None]:
    with quick_hashes():
        yield


@pytest.fixture(scope="session")
def model_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    make_house(folder)
    return folder


@pytest.fixture(scope="session")
def model_postgres(private_postgres: PrivatePostgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("postgres-house")
    url = private_postgres.database()
    make_house(folder, url)
    return folder, url


@pytest.fixture
def postgres_house(
    model_postgres: tuple[Path, str], private_postgres: PrivatePostgres, tmp_path: Path
) -> Iterator[House]:
    folder = tmp_path / "house"
    shutil.copytree(model_postgres[0], folder)
    url = private_postgres.database(model_postgres[1].rpartition("/")[2])
    opened = open_house(folder, url)
    yield opened
    opened.store.close()
    private_postgres.drop(url)


@pytest.fixture
def house(model_house: Path, tmp_path: Path) -> Iterator[House]:
    folder = tmp_path / "house"
    shutil.copytree(model_house, folder)
    opened = open_house(folder)
    yield opened
    opened.store.close()


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[Dovecot]:
    """A Dovecot of the test's own."""
    if not dovecot.available():
        pytest.skip("Dovecot is not installed, or this is not root")
    server = Dovecot(tmp_path / "dovecot")
    yield server
    server.stop()
