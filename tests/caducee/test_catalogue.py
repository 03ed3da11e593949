"""`caducee --help` names every command without importing any; what it says of each is what the command says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from caducee.commands.catalogue import CATALOGUE, load


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_command_says_of_itself_what_the_catalogue_says(name: str) -> None:
    own = " ".join((load(name).help or "").split())
    assert own.startswith(CATALOGUE[name].help.rstrip("."))


def test_help_imports_no_room() -> None:
    script = "import sys; from caducee.cli import app\ntry: app(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "deposits" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"mailstore", "smtp", "imap", "trustspace", "directory", "dmp_bridge", "proxy", "smime"}
