"""A fresh store for each test, copied from one made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imap.support import House, make_house, open_house


@pytest.fixture(scope="session")
def model_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    make_house(folder)
    return folder


@pytest.fixture
def house(model_house: Path, tmp_path: Path) -> Iterator[House]:
    folder = tmp_path / "house"
    shutil.copytree(model_house, folder)
    opened = open_house(folder)
    yield opened
    opened.store.close()
