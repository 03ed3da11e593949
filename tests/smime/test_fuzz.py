"""A short run of every fuzz target; bench/fuzz_smime.py runs them for as long as asked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    place = Path(__file__).resolve().parents[2] / "bench" / "fuzz_smime.py"
    spec = importlib.util.spec_from_file_location("fuzz_smime", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_target_for_a_moment() -> None:
    fuzzer = load().Fuzzer(20261121)
    for name in fuzzer.targets:
        assert fuzzer.run(name, 0.4) > 10, name
