"""`docs/support.toml` ties each requirement to code and to a test that exists."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATUSES = {"done", "thin", "planned"}


def requirements() -> list[dict[str, Any]]:
    table = tomllib.loads((ROOT / "docs/support.toml").read_text("utf-8"))
    return list(table["requirement"])


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with one row: the test run fails on any."""
    found = [f"{key} is missing" for key in ("id", "title", "source", "status") if not row.get(key)]
    if row.get("status") not in STATUSES:
        found.append(f"status {row.get('status')!r} is none of {sorted(STATUSES)}")
    if row.get("status") in {"done", "thin"} and not (row.get("modules") and row.get("tests")):
        found.append("a requirement said to hold names its modules and its tests")
    for path in row.get("modules", []):
        if not (ROOT / path).exists():
            found.append(f"{path} does not exist")
    for reference in row.get("tests", []):
        path, _, name = reference.partition("::")
        if not (ROOT / path).is_file() or (name and f"def {name}" not in (ROOT / path).read_text("utf-8")):
            found.append(f"test {reference} does not exist")
    if row.get("status") == "thin" and not row.get("missing"):
        found.append("a thin requirement says what is missing")
    return found


@pytest.mark.parametrize("row", requirements(), ids=lambda row: str(row.get("id")))
def test_requirement_is_tied_to_code_and_test(row: dict[str, Any]) -> None:
    assert problems(row) == []


def test_identifiers_are_unique() -> None:
    ids = [row["id"] for row in requirements()]
    assert len(ids) == len(set(ids))


def test_the_checker_sees_a_missing_test() -> None:
    row = {
        "id": "X",
        "title": "x",
        "source": "x",
        "status": "done",
        "modules": ["smtp"],
        "tests": ["tests/none.py::test_x"],
    }
    assert problems(row) == ["test tests/none.py::test_x does not exist"]
