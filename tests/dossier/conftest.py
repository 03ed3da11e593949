"""Fixtures of the record's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dossier.house import House, Trust, house


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Practice certificates."""
    return Trust.create(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def record(trust: Trust, tmp_path: Path) -> Iterator[House]:
    """A running record."""
    with house(trust, tmp_path) as running:
        yield running
