"""`caducee keys` as an operator's engineer uses it: renewal of a mailbox's key, with the directory kept in line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from typer.testing import CliRunner, Result

from caducee.commands.accounts import practice_authority
from caducee.commands.keys import app
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.key_publication import certificates_to_publish
from caducee.mailboxes import NewMailbox, add_mailbox
from caducee.private_directory import private_directory
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import Slapd
from mailstore import KeyRecord, MailboxKind
from tests.caducee.test_cli import caducee
from tests.journey.support import free_base_port
from tests.proxy.test_keychain import certify_by
from trustspace import PracticeAuthority, pem

ADDRESS = "cardiologie@exercice.mssante.fr"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cles") / "op"
    done = caducee("init", str(place), "--practice", "--ports-above", str(free_base_port()))
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return load_settings(folder)


@pytest.fixture(scope="module")
def authority(folder: Path, settings: Settings) -> PracticeAuthority:
    found = practice_authority(OperatorFolder(folder), settings)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def slapd(folder: Path, settings: Settings, authority: PracticeAuthority) -> Iterator[Slapd]:
    """The directory with one mailbox of ours, opened and published."""
    server = private_directory(OperatorFolder(folder), settings)
    server.start()
    with (
        closing(open_store(OperatorFolder(folder), settings)) as store,
        closing(open_directory(OperatorFolder(folder), settings, write=True)) as directory,
    ):
        mailbox = NewMailbox(ADDRESS, MailboxKind.ORG, "1990000010", "Cardiologie")
        entry, _ = add_mailbox(store, mailbox, settings.operator, at=now(), authority=authority)
        directory.publish(entry)
    yield server
    server.stop()


def run(folder: Path, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, [*arguments, "--dir", str(folder)], input=typed)


def published(folder: Path, settings: Settings) -> tuple[x509.Certificate, ...]:
    with closing(open_directory(OperatorFolder(folder), settings, write=True)) as directory:
        entry = directory.by_address(ADDRESS)
        assert entry is not None
        return entry.certificates


def test_a_key_is_renewed_and_the_directory_follows(
    folder: Path, settings: Settings, slapd: Slapd, authority: PracticeAuthority, tmp_path: Path
) -> None:
    (former,) = published(folder, settings)
    request, chain = tmp_path / "demande.pem", tmp_path / "chaine.pem"
    made = run(folder, "generate", ADDRESS, "--out", str(request), "--by", "anne")
    assert made.exit_code == 0, made.output
    assert published(folder, settings) == (former,)  # it has no certificate yet
    chain.write_bytes(certify_by(authority, request.read_bytes(), former))
    (new,) = pem.read_certificates(chain)
    done = run(folder, "install", "2", str(chain), "--by", "anne")
    assert done.exit_code == 0 and "annuaire à jour" in done.output, done.output
    assert published(folder, settings) == (new,)  # nobody encrypts to the former one any more
    issued = authority.issue_organisation(
        "Cardiologie", "CHU", "1990000010", "Rhône (69)", usage="smime", email=ADDRESS, at=now()
    )
    sealed = pkcs12.serialize_key_and_certificates(
        None, issued.key, issued.certificate, issued.chain[1:], BestAvailableEncryption(b"secret")
    )
    (tmp_path / "cle.p12").write_bytes(sealed)
    done = run(folder, "import", ADDRESS, str(tmp_path / "cle.p12"), "--stdin", typed="secret\n")
    assert done.exit_code == 0, done.output
    assert set(published(folder, settings)) == {new, issued.certificate}
    assert run(folder, "retire", "2", "--reason", "renouvelée", "--no-publish").exit_code == 0
    assert new in published(folder, settings)
    assert run(folder, "publish", ADDRESS).exit_code == 0
    assert published(folder, settings) == (issued.certificate,)


def test_a_directory_that_is_down_is_said_and_the_key_stays(folder: Path, slapd: Slapd) -> None:
    slapd.stop()
    try:
        done = run(folder, "publish", ADDRESS)
        assert done.exit_code == 1 and f"caducee keys publish {ADDRESS}" in done.output
        done = run(folder, "retire", "3", "--reason", "essai")
        assert done.exit_code == 0 and "retirée" in done.output and "annuaire pas à jour" in done.output
    finally:
        slapd.start()
    assert run(folder, "publish", "exercice.mssante.fr").exit_code == 0  # a domain has no entry
    assert isinstance(run(folder, "retire", "99", "--reason", "essai").exception, UsageError)


def test_what_is_not_of_our_keys_stays_published(authority: PracticeAuthority) -> None:
    card, first, second = (
        authority.issue_professional("810999000010", "E", "A", "Médecin", usage="encrypt", email=None, at=now())
        for _ in range(3)
    )

    def record(number: int, certificate: x509.Certificate, *, retired: bool) -> KeyRecord:
        at = now()
        chain = pem.chain_to_pem([certificate])
        return KeyRecord(number, ADDRESS, "encrypt", chain, "", at, at if retired else None, "", "", None)

    keys = [record(1, first.certificate, retired=True), record(2, second.certificate, retired=False)]
    wanted = certificates_to_publish((card.certificate, first.certificate), keys)
    assert wanted == (card.certificate, second.certificate)
