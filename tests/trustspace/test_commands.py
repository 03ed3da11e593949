"""`caducee trust` and `caducee cert`, as a person runs them: on a real folder, with the real list where it is at hand."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from caducee import cli
from tests.trustspace.conftest import sample
from trustspace import PracticeAuthority, read_certificates
from trustspace.publishing import PUBLISHED_LIST

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, code: int = 0, folder: Path | None = None) -> str:
    """The standard output of the command, in this process; its standard error when it is to fail."""
    argv = ["caducee", *map(str, arguments), *(["--dir", str(folder)] if folder else [])]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(cli, "configure_logs"),  # it would take over the test run's own logs
        mock.patch.dict("os.environ", {"COLUMNS": "300"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
        sys.exit(0)
    assert (ended.value.code or 0) == code, out.getvalue() + err.getvalue()
    assert "unexpected" not in err.getvalue()
    return err.getvalue() if code else out.getvalue()


def rows(*arguments: str | Path, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json", folder=folder))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "op"
    run("init", folder, "--practice", "--domain", "exercice.mssante.fr")
    return folder


@pytest.fixture
def operator(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "op", ignore=shutil.ignore_patterns("directory")))


def answers(found: list[dict[str, Any]]) -> dict[str, str]:
    return {row["étape"].partition(" / ")[0].strip(): row["réponse"] for row in found}


def test_list_history_and_search(operator: Path) -> None:
    (entry,) = rows("trust", "list", "exercice", folder=operator)
    assert entry["domaine"] == "exercice.mssante.fr" and entry["DN"].startswith("CN=mss.exercice")
    assert rows("trust", "list", "inconnu", folder=operator) == []
    (line,) = rows("trust", "history", folder=operator)
    assert line["issue"] == "accepted" and len(line["sha256"]) == 64
    assert "fresh" in run("trust", "list", folder=operator)


def test_publish_import_and_diff(operator: Path, tmp_path: Path) -> None:
    entries = operator / "entries.csv"
    entries.write_text(
        "domain;operator\nexercice.mssante.fr;keys/server.pem\nnouveau.mssante.fr;keys/server.pem\n", encoding="utf-8"
    )
    run("trust", "publish", entries, "--authority", operator / "pki", folder=operator)
    published = operator / "published" / PUBLISHED_LIST
    assert "in force" in run("trust", "import", published, folder=operator)
    assert "confirmed" in run("trust", "import", published, folder=operator)
    (change,) = rows("trust", "diff", folder=operator)
    assert (change["changement"], change["domaine"]) == ("domain-added", "nouveau.mssante.fr")
    first, second = rows("trust", "history", folder=operator)
    (back,) = rows("trust", "diff", second["sha256"][:8], first["sha256"][:8], folder=operator)
    assert back["changement"] == "domain-removed"
    tampered = tmp_path / "tampered.xml"
    tampered.write_bytes(published.read_bytes().replace(b"nouveau", b"mauvais"))
    assert "SIGNATURE_INVALID" in run("trust", "import", tampered, folder=operator, code=2)
    assert rows("trust", "history", folder=operator)[-1]["issue"] == "refused"
    assert len(rows("trust", "list", folder=operator)) == 2


def test_explain(operator: Path, tmp_path: Path) -> None:
    known = answers(rows("trust", "explain", "EXERCICE.mssante.fr", folder=operator))
    assert known["décision"] == "1 DN"
    below = answers(rows("trust", "explain", "x.exercice.mssante.fr", folder=operator))
    assert below["décision"] == "DOMAIN_NOT_LISTED" and "exercice.mssante.fr" in below["parent"]
    certificate = operator / "keys" / "server.pem"
    yes = answers(rows("trust", "explain", certificate, "--side", "server", folder=operator))
    assert yes["décision"] == "oui / yes: LISTED" and "[CRL" in yes["0"] and yes["2"].endswith("[racine / root]")
    no = answers(rows("trust", "explain", "autre.mssante.fr", "-c", certificate, folder=operator))
    assert no["décision"] == "non / no: DOMAIN_NOT_LISTED"
    later = answers(rows("trust", "explain", certificate, "--at", "2035-01-01T00:00:00", folder=operator))
    assert later["décision"].endswith("WHITE_LIST_STALE")
    stranger = PracticeAuthority.create(tmp_path / "x", at=datetime.now(UTC)).issue_server(
        "mss.x.example", "X", "1750000018", "P", at=datetime.now(UTC)
    )
    chain, _ = stranger.write(tmp_path, "x")
    refused = answers(rows("trust", "explain", chain, folder=operator))
    assert refused["décision"] == "non / no: CERTIFICATE_UNTRUSTED" and refused["en défaut"].startswith("CN=mss.x")
    assert (
        answers(rows("trust", "explain", operator / "trust/listeblanche.xml", folder=operator))["décision"]
        == "oui / yes"
    )
    assert "ni domaine, ni fichier" in run("trust", "explain", "nonsense", folder=operator, code=2)


def test_refresh_says_what_failed(operator: Path) -> None:
    settings = operator / "caducee.toml"
    text = settings.read_text().replace('list_url = ""', 'list_url = "https://127.0.0.1:1/liste.xml"')
    settings.write_text(text)
    assert "au moins un téléchargement" in run("trust", "refresh", folder=operator, code=2)
    assert "127.0.0.1: ConnectError" in run("trust", "list", folder=operator)
    settings.write_text(text.replace("https://127", "http://127"))
    assert "trust.list_url" in run("trust", "list", folder=operator, code=2)


def test_certificates(operator: Path) -> None:
    assert {row["nom"]: row["état"] for row in rows("cert", "status", folder=operator)} == {
        "dmp-auth": "fine",
        "dmp-sign": "fine",
        "server": "fine",
    }
    assert "server.next.csr" in run("cert", "request", folder=operator)
    assert "waits" in run("cert", "request", folder=operator, code=2)
    assert "for the key that waits" in run(
        "cert", "import", operator / "pki/anchors/TEST-ACR-EL.pem", folder=operator, code=2
    )
    (server,) = [row for row in rows("cert", "status", folder=operator) if row["nom"] == "server"]
    assert "waiting" in server["demande"]


def test_a_practice_authority_is_refused_by_production_settings(operator: Path) -> None:
    settings = operator / "caducee.toml"
    text = settings.read_text().replace("practice = true", "practice = false")
    settings.write_text(text)
    assert "trust.signer_cn" in (error := run("trust", "list", folder=operator, code=2)) and "trust.authority" in error
    text = text.replace('signer_cn = "alb.practice"', 'signer_cn = "alb.mssante.fr"').replace(
        'authority = "pki"', 'authority = ""'
    )
    settings.write_text(text)
    for command in (("trust", "list"), ("trust", "refresh"), ("config", "check")):
        assert "practice authority refused" in run(*command, folder=operator, code=2)
    own = operator / "trust" / "anchors" / "list"
    own.mkdir()
    for path in (operator / "trust/anchors").glob("*.pem"):
        path.rename(own / path.name)
    assert "practice authority refused" in run("trust", "list", folder=operator, code=2), "nor for one purpose"


def test_the_real_list_end_to_end(operator: Path, tmp_path: Path) -> None:
    """Production settings, the real anchors, the real list: imported, searched, explained. Its date is long past: the
    signer is judged at the list's own time."""
    xml, authorities = sample("whitelist/listeblanchemssante-2025-02-28.xml"), sample("igc-sante")
    shutil.rmtree(operator / "trust")
    for part, files in (
        ("anchors", ["ACR_ELEMENTAIRE_20130625.cer"]),
        ("intermediates", ["AC_ELEMENTAIRE_ORGANISATIONS_20130625.cer"]),
    ):
        (operator / "trust" / part).mkdir(parents=True)
        for name in files:
            shutil.copy(authorities / name, operator / "trust" / part)
    settings = operator / "caducee.toml"
    text = settings.read_text().replace("practice = true", "practice = false")
    text = text.replace('signer_cn = "alb.practice"', 'signer_cn = "alb.mssante.fr"').replace(
        'authority = "pki"', 'authority = ""'
    )
    settings.write_text(text)
    assert "6494" in run("trust", "import", xml, folder=operator)
    assert len(rows("trust", "list", "--limit", "0", folder=operator)) == 6494
    assert {row["domaine"] for row in rows("trust", "list", "lyon", "chu", folder=operator)}
    assert answers(rows("trust", "explain", "patient.mssante.fr", folder=operator))["décision"].endswith("DN")
    (line,) = rows("trust", "history", folder=operator)
    assert (line["entrées"], line["générée"]) == (6494, "2025-02-28T15:42:07+00:00")
    assert read_certificates(authorities / "ACR_FORT_20130625.cer")[0].not_valid_after_utc - datetime.now(
        UTC
    ) > timedelta(0)
