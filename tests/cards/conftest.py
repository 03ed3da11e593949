"""Cards made by a practice authority, and a virtual reader shared by the tests of a module."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from caducee.demo.practice_card_files import Pair, Personalisation
from caducee.demo.virtual_reader import Pcscd, missing
from smime import cps_reader
from smime.cps_errors import CardError
from smime.cps_library import AUTHENTICATION, SIGNATURE
from tests.cards.emulator import Card, Faults
from trustspace import PracticeAuthority

NATIONAL_ID = "810999000010"
NOW = datetime.now(UTC)


@dataclass
class Factory:
    """Personalises cards, as the national agency does."""

    authority: PracticeAuthority
    pairs: tuple[Pair, Pair]

    def personal(self, **more: object) -> Personalisation:
        return Personalisation(*self.pairs, **more)  # type: ignore[arg-type]

    def card(self, model: str = "CPS3", *, faults: Faults | None = None, **more: object) -> Card:
        return Card(self.personal(**more), model, faults or Faults())


def make_pairs(authority: PracticeAuthority, national_id: str = NATIONAL_ID) -> tuple[Pair, Pair]:
    """Signature and authentication pair of Dr Alice EXEMPLE."""
    issued = [
        authority.issue_professional(national_id, "EXEMPLE", "Alice", "Médecin", usage=usage, email=None, at=NOW)
        for usage in ("sign", "auth")
    ]
    first, second = (Pair(one.key, one.certificate) for one in issued)
    return first, second


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    authority = PracticeAuthority.create(tmp_path_factory.mktemp("cards-pki"), at=NOW - timedelta(days=1))
    return Factory(authority, make_pairs(authority))


@pytest.fixture(scope="module")
def pcscd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pcscd]:
    if why := missing():
        pytest.skip(why)
    # The client library reads PCSCLITE_CSOCK_NAME once in a process: every daemon of this one is found at the same place.
    daemon = Pcscd(tmp_path_factory.getbasetemp() / "pcscd")
    daemon.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCSCLITE_CSOCK_NAME", os.fspath(daemon.socket))
        yield daemon
    daemon.stop()


@pytest.fixture
def insert(pcscd: Pcscd) -> Iterator[Callable[..., str]]:
    """Puts a card in a reader and gives the reader's name once PC/SC sees it; pulled out at the end."""

    def put(card: Card, slot: int = 0) -> str:
        for _ in range(4):
            pcscd.slots[slot].insert(card)
            if name := seen(f"00 0{slot}", present=True):
                return name
            # The driver sometimes keeps a connection it has already lost, and never looks at the next one.
            pcscd.slots[slot].remove()
        raise AssertionError(f"slot {slot}: card not seen")

    yield put
    for number, slot in enumerate(pcscd.slots):
        slot.remove()
        seen(f"00 0{number}", present=False)


def seen(name: str, *, present: bool, seconds: float = 3.0) -> str:
    """The full name of the reader once a card is seen (or no more) in it; "" when that does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(CardError):
            states = [one for one in cps_reader.readers() if name in one.name]
            if found := [one.name for one in states if bool(one.atr) is present]:
                return found[0]
        time.sleep(0.05)
    return ""


SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@dataclass
class TokenCard:
    """A SoftHSM2 token laid out as the national library shows a CPS: label, certificates by label, keys by identifier."""

    folder: Path
    library: str = os.fspath(SOFTHSM)
    pin: str = "1234"

    def personalise(self, pairs: tuple[Pair, Pair], label: str = "CPS3v3-1234567890") -> None:
        """Put a card of these pairs in. Raises CalledProcessError."""
        self._run(
            "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", self.pin
        )
        for number, (pair, certificate, key) in enumerate(zip(pairs, (SIGNATURE, AUTHENTICATION), KEYS, strict=True)):
            files = {"privkey": pair.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())}
            files["cert"] = pair.certificate.public_bytes(Encoding.DER)
            for kind, octets in files.items():
                (self.folder / "object.der").write_bytes(octets)
                self._run(
                    "pkcs11-tool", "--module", self.library, "--token-label", label, "--login", "--pin", self.pin,
                    "--write-object", self.folder / "object.der", "--type", kind, "--id", f"0{number + 1}",
                    "--label", certificate if kind == "cert" else key,
                )  # fmt: skip

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True)


KEYS = ("CPS_PRIV_SIG", "CPS_PRIV_AUT")


@pytest.fixture
def token_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenCard:
    """An empty token store; SoftHSM2 is loaded by processes of its own only."""
    if not SOFTHSM.exists() or not shutil.which("pkcs11-tool") or not shutil.which("softhsm2-util"):
        pytest.skip("SoftHSM2 or OpenSC is not installed")
    folder = tmp_path / "softhsm"
    (folder / "tokens").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", os.fspath(folder / "softhsm2.conf"))
    return TokenCard(folder)
