"""Regression: the mail process and the deposits process open the register at the same instant, on the first start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOGETHER = """
import os, sys
from dmp_bridge.register import Register
wait, go = os.pipe()
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        os.close(go)
        os.read(wait, 1)
        Register(sys.argv[1], bytes(32)).close()
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.slow
def test_processes_that_create_it_together_all_get_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    said = subprocess.run(
        [sys.executable, "-c", TOGETHER, url], capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 0, said.stderr
