"""Settings: every key commented and readable back; every error names its key; the environment wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from caducee.autoconfig import config_xml, srv_records
from caducee.folder import OperatorFolder
from caducee.sections import ListenSection, OperatorSection, ServicesSection
from caducee.settings import Settings, SettingsError, load_settings, used_ports
from caducee.settings_file import settings_file
from caducee.wiring import open_directory

EXAMPLE = Settings(
    operator=OperatorSection(
        hostname="mss.chu-exemple.fr",
        domains=("chu-exemple.mssante.fr",),
        organisation='CHU "EXEMPLE"',
        department="Rhône (69)",
    ),
    listen=ListenSection.above(21000),
    routes={"medecin.mssante.fr": "127.0.0.1:22025"},
)


def write(folder: Path, text: str) -> Path:
    (folder / "caducee.toml").write_text(text, encoding="utf-8")
    return folder


def test_the_written_file_is_read_back_as_the_same_settings(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, settings_file(EXAMPLE))) == EXAMPLE


def test_every_key_of_the_written_file_has_a_comment() -> None:
    lines = settings_file(Settings()).splitlines()
    keys = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(keys) > 35
    assert [lines[number] for number in keys if not lines[number - 1].startswith("#")] == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[listen]\nimaps = 70000", "listen.imaps"),
        ("[listen]\nimap_port = 3", "listen.imap_port"),
        ("[operator]\ndomains = ['pas un domaine']", "operator.domains.0"),
        ("[operator]\nstructure_id = '1990000011'", "operator.structure_id"),
        ("[routes]\n'a.mssante.fr' = 'sans-port'", "routes.a.mssante.fr"),
        ("[proxy]\nencrypt = 'parfois'", "proxy.encrypt"),
        ("colour = 1", "colour"),
        ("[operator]\nhostname = 'mss..mssante.fr'", "operator.hostname"),
        ('[operator]\nhostname = "mss.fr\\r\\nX: y.fr"', "operator.hostname"),
        ("[services]\nmail = true", "operator.domains"),
        ("[operator]\ndomains = ['a.fr']\n[listen]\nimap = 993", "listen.imap"),
        ("[operator]\ndomains = ['a.fr']\n[listen]\nimaps = 0", "listen.imaps"),
        ("[services]\nmail = false\nrecord = true\n[listen]\nrecord = 0", "listen.record"),
    ],
)
def test_an_error_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(write(tmp_path, text))
    assert str(refused.value).startswith(f"{key}: ")
    assert "caducee.toml" in str(refused.value)


def test_broken_toml_and_missing_file_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="caducee init"):
        load_settings(tmp_path)
    with pytest.raises(SettingsError, match="TOML"):
        load_settings(write(tmp_path, "[listen"))


def test_the_environment_wins_and_is_named_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, settings_file(EXAMPLE))
    monkeypatch.setenv("CADUCEE_LISTEN__IMAPS", "20999")
    settings = load_settings(tmp_path)
    assert (settings.listen.imaps, settings.listen.imap) == (20999, 21143)
    monkeypatch.setenv("CADUCEE_LISTEN__IMAPS", "many")
    with pytest.raises(SettingsError, match="CADUCEE_LISTEN__IMAPS"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CADUCEE_OPERATOR__DOMAINS", "a.fr", "operator"),
        ("CADUCEE_LISTEN", "993", "listen"),
        ("CADUCEE_LISTENS__IMAPS", "993", "CADUCEE_LISTENS__IMAPS"),
        ("CADUCEE_OPERATOR__DOMAINS", '["a b"]', "variable CADUCEE_OPERATOR__DOMAINS"),
        ("caducee_listen__imaps", "many", "variable caducee_listen__imaps"),
    ],
)
def test_a_variable_that_cannot_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    write(tmp_path, settings_file(EXAMPLE))
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=said):
        load_settings(tmp_path)


def test_ports_of_services_that_are_off_may_be_taken(tmp_path: Path) -> None:
    text = "[operator]\ndomains = ['a.fr']\n[listen]\nweb = 8443\nimaps = 0\nimap = 0"
    assert "imaps" not in used_ports(load_settings(write(tmp_path, text)))


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "127.0.0.1"])
def test_the_private_directory_is_met_on_the_loopback_whatever_is_listened_on(tmp_path: Path, host: str) -> None:
    """slapd offers clear-text LDAP there only; a password in clear to anywhere else would be refused."""
    settings = Settings(services=ServicesSection(directory=True), listen=ListenSection.above(20000, host))
    folder = OperatorFolder(tmp_path)
    folder.keys.mkdir()
    folder.directory_password.write_text("secret")
    assert open_directory(folder, settings).url == "ldap://127.0.0.1:20389"


def test_autoconfig_offers_only_tls() -> None:
    text = config_xml(EXAMPLE).decode()
    assert text.count("<socketType>SSL</socketType>") == 2
    assert text.count("<socketType>STARTTLS</socketType>") == 2
    assert "plain<" not in text
    assert "<hostname>localhost</hostname>" in text
    assert "<port>21993</port>" in text


def test_srv_records_name_each_service() -> None:
    assert "_imaps._tcp.chu-exemple.mssante.fr. SRV 0 1 21993 mss.chu-exemple.fr." in srv_records(EXAMPLE)
