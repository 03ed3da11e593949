"""Fixtures of the SMTP tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smtp.world import World, build, make_template


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """These tests end no machine: what they write need not reach the disk (the store's own tests, and those that kill,
    are elsewhere)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        patch.setattr(os, "fdatasync", lambda _handle: None)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of a world that take time to make."""
    folder = tmp_path_factory.mktemp("smtp-template")
    make_template(folder)
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Iterator[World]:
    """Two operators that trust each other."""
    made = build(template, tmp_path)
    yield made
    made.a.store.close()
    made.b.store.close()
