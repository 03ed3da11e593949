"""The agent's settings file: written, read again, and what is wrong in it said."""

from __future__ import annotations

from pathlib import Path

import pytest

from caducee.agent.settings import AGENT_FILE, NATIONAL, AgentSettings, create, library, load
from caducee.errors import UsageError
from smime import cps_remote

ASKED = AgentSettings(address="alice@chu.fr", host="mss.chu.fr", reader='lecteur "1"', pkcs11_library=NATIONAL)


def test_what_is_written_is_read_again_and_never_written_over(tmp_path: Path) -> None:
    file = create(tmp_path / "agent", ASKED, ())
    assert load(tmp_path / "agent") == ASKED
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="existe déjà"):
        create(tmp_path / "agent", ASKED, ())


@pytest.mark.parametrize(
    ("text", "said"), [("pin_minutes = 1000", "pin_minutes"), ('pin = "1234"', "pin: Extra"), ("login = ", "illisible")]
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / AGENT_FILE).write_text(f'address = "a@b.fr"\nhost = "mss.fr"\n{text}\n')
    with pytest.raises(UsageError, match=said):
        load(tmp_path)
    with pytest.raises(UsageError, match="agent init"):
        load(tmp_path / "none")


def test_the_national_library_is_used_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = tmp_path / "libcps3_pkcs11_lux.so"
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setitem(cps_remote.NATIONAL_LIBRARIES, "linux", str(present))
    with pytest.raises(UsageError, match="Cryptolib CPS"):
        library(ASKED)
    present.touch()
    assert library(ASKED) == str(present)
    assert library(ASKED.model_copy(update={"pkcs11_library": ""})) == ""
    assert library(ASKED.model_copy(update={"pkcs11_library": str(present)})) == str(present)
    with pytest.raises(UsageError, match="absent"):
        library(ASKED.model_copy(update={"pkcs11_library": str(tmp_path / "other.so")}))
