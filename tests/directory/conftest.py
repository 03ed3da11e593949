"""A real private slapd, shared by the tests that only read or that clean up after themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from directory import Directory, Slapd, synthetic_entries
from tests.directory.helpers import PASSWORD, Authority, free_port
from tests.directory.imports import reading, small_slapd


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("autorite"))


@pytest.fixture(scope="session")
def slapd(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Slapd]:
    """300 people, LDAP and LDAPS. The folder's name holds a space; its parents are closed to other users."""
    chain, key = authority.server()
    server = Slapd(
        tmp_path_factory.mktemp("annuaire") / "dossier à espaces",
        ldap_port=free_port(),
        ldaps_port=free_port(),
        certificate=chain,
        key=key,
    )
    server.initialise(synthetic_entries(300, seed=7), PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def reader(slapd: Slapd) -> Iterator[Directory]:
    """An anonymous client."""
    directory = Directory(slapd.url)
    yield directory
    directory.close()


@pytest.fixture
def operator(slapd: Slapd) -> Iterator[Directory]:
    """The operator's client, which may write."""
    directory = Directory(slapd.url, bind_dn=slapd.admin_dn, password=PASSWORD)
    yield directory
    directory.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Slapd]:
    """A small slapd that the test may maltreat."""
    with small_slapd(tmp_path) as server:
        yield server


@pytest.fixture
def own_reader(own: Slapd) -> Iterator[Directory]:
    """A client of it that may read."""
    with closing(reading(own)) as directory:
        yield directory


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The operator's password as ldap-utils' `-y` reads it (the whole file, no line end)."""
    path = tmp_path / "motdepasse"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    return path
