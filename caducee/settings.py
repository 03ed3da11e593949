"""The settings of one operator: `caducee.toml` in its folder, each key overridable by an environment variable.

`CADUCEE_LISTEN__IMAPS=20993` overrides `imaps` of `[listen]`. Unknown keys are errors, and every error names its key.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from caducee.sections import (
    BearerSection,
    DatabaseSection,
    DirectorySection,
    DmpSection,
    Domain,
    Endpoint,
    Hl7Section,
    ImapSection,
    LimitsSection,
    ListenSection,
    LogsSection,
    OperatorSection,
    ProxySection,
    RecordSection,
    ServicesSection,
    SmtpSection,
    TrustSection,
)
from trustspace.practice import PRACTICE_SIGNER_CN

SETTINGS_FILE = "caducee.toml"
NATIONAL_LIST_URL = "https://espacedeconfiance.mssante.fr/listeblanchemssante.xml"
"""Where the national white list is said to be (mssante.md §1.1, secondary source): written by `init`, never built in."""
MAIL_PORTS = ("submissions", "submission", "reception", "imaps", "imap", "web", "hl7", "monitor")
_VARIABLE = "CADUCEE_"


class SettingsError(Exception):
    """Settings that cannot be used; the text is a list of `key: what is wrong`, one a line."""


class Settings(BaseSettings):
    """All the sections. Build with `load_settings` or `build_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=_VARIABLE,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    operator: OperatorSection = OperatorSection()
    services: ServicesSection = ServicesSection()
    listen: ListenSection = ListenSection()
    database: DatabaseSection = DatabaseSection()
    trust: TrustSection = TrustSection()
    directory: DirectorySection = DirectorySection()
    proxy: ProxySection = ProxySection()
    dmp: DmpSection = DmpSection()
    hl7: Hl7Section = Hl7Section()
    record: RecordSection = RecordSection()
    bearer: BearerSection = BearerSection()
    smtp: SmtpSection = SmtpSection()
    imap: ImapSection = ImapSection()
    limits: LimitsSection = LimitsSection()
    logs: LogsSection = LogsSection()
    routes: dict[Domain, Endpoint] = Field(
        default_factory=dict,
        description="Where to reach a domain without asking DNS (closed networks): domain = host:port.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (passed as init values)."""
        return env_settings, init_settings


def load_settings(folder: Path) -> Settings:
    """Read `caducee.toml` of an operator's folder, then the environment.

    Raises SettingsError with one `key: reason` a line.
    """
    file = folder / SETTINGS_FILE
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{file}: absent. « caducee init {folder} » le crée / creates it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: illisible / unreadable: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: TOML invalide / invalid: {error}") from None
    return build_settings(file, **values)


def build_settings(source: Path, **values: Any) -> Settings:
    """The sections given, then the environment; `source` is named beside what is wrong. Raises as `load_settings`."""
    _check_variables()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(source, item["loc"], item["msg"]) for item in error.errors())) from None
    except SourceError as error:
        # A tuple or a whole section that is no JSON; the library's text names the field, and its cause the value.
        raise SettingsError(
            f"{_VARIABLE}*: {error}: JSON attendu / expected: '[\"a.fr\"]', '{{\"imaps\": 993}}'"
        ) from None
    if problems := _incoherences(settings):
        raise SettingsError("\n".join(f"{problem} ({source})" for problem in problems))
    return settings


def used_ports(settings: Settings) -> dict[str, int]:
    """The ports that the services of these settings listen on, by key of [listen]."""
    services = settings.services
    keys = [*(MAIL_PORTS if services.mail else ()), *(("ldap", "ldaps") if services.directory else ())]
    keys += ["record"] if services.record else []
    keys += ["deposits_monitor"] if services.deposits else []
    ports: dict[str, int] = {key: getattr(settings.listen, key) for key in keys}
    return {key: port for key, port in ports.items() if port}


def _check_variables() -> None:
    """A misspelt section would be passed over in silence. Variables without `__` are other programs' business."""
    known = {name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        section, separator, _ = variable.upper().removeprefix(_VARIABLE).partition("__")
        if variable.upper().startswith(_VARIABLE) and separator and section not in known:
            raise SettingsError(f"{section.lower()}: section inconnue / unknown section (variable {variable})")


def _incoherences(settings: Settings) -> list[str]:
    """What no key shows alone, as `key: what is wrong`."""
    services, listen, problems = settings.services, settings.listen, []
    if services.mail and not settings.operator.domains:
        problems.append("operator.domains: aucun domaine, le courrier n'aurait pas de boîte / no domain to serve")
    if services.mail and listen.imap and not listen.imaps:
        problems.append("listen.imaps: 0 demande aussi imap = 0 / 0 needs imap = 0 too")
    for key, wanted in (("ldap", services.directory), ("record", services.record)):
        if wanted and not getattr(listen, key):
            problems.append(f"listen.{key}: 0, mais le service est demandé dans [services] / 0, but the service is on")
    if not settings.trust.practice and settings.trust.signer_cn == PRACTICE_SIGNER_CN:
        problems.append(
            "trust.signer_cn: signataire d'exercice refusé, trust.practice = false / practice signer in production"
        )
    if not settings.trust.practice and settings.trust.authority:
        problems.append(
            "trust.authority: autorité d'exercice refusée, trust.practice = false / practice authority in production"
        )
    if settings.trust.stop_after_hours <= settings.trust.warn_after_hours:
        problems.append("trust.stop_after_hours: doit dépasser warn_after_hours / must exceed warn_after_hours")
    first: dict[int, str] = {}
    for key, port in used_ports(settings).items():
        if first.setdefault(port, key) != key:
            problems.append(f"listen.{key}: {port} est déjà celui de listen.{first[port]} / is listen.{first[port]}'s")
    return problems


def _explain(file: Path, location: tuple[str | int, ...], message: str) -> str:
    key = ".".join(str(step) for step in location)
    names = [_VARIABLE + "__".join(str(step) for step in location[:end]).upper() for end in (1, 2, len(location))]
    given = {variable.upper(): variable for variable in os.environ}
    origin = next((f"variable {given[name]}" for name in reversed(names) if name in given), str(file))
    return f"{key}: {message.removeprefix('Value error, ')} ({origin})"
