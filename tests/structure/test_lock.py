"""The dependency lock holds pins and hashes, and nothing about where packages come from."""

from __future__ import annotations

import re
from pathlib import Path

LOCK = (Path(__file__).resolve().parents[2] / "requirements.lock").read_text("utf-8")


def test_lock_names_no_registry_and_no_option() -> None:
    assert not re.search(r"https?://|file:|^\s*-[^-]|^--|@ ", LOCK, re.MULTILINE)


def test_every_pin_is_hashed() -> None:
    pins = re.split(r"\n(?=[a-z0-9])", LOCK.strip())
    assert len(pins) > 40
    assert [pin.splitlines()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []
