"""The settings of one operator: `caducee.toml` in its folder, each key overridable by an environment variable.

`CADUCEE_LISTEN__IMAPS=20993` overrides `imaps` of `[listen]`. Unknown keys are errors, and every error names its key.
Relative paths are taken from the operator's folder; nothing is ever written outside it.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from directory.identifiers import parse_structure_id

SETTINGS_FILE = "caducee.toml"
MAIL_PORTS = ("submissions", "submission", "reception", "imaps", "imap", "web")
_VARIABLE = "CADUCEE_"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+")


class SettingsError(Exception):
    """Settings that cannot be used; the text is a list of `key: what is wrong`, one a line."""


def _domain(value: str) -> str:
    name = value.strip().lower().rstrip(".")
    if not _DOMAIN.fullmatch(name):
        raise ValueError(f"« {value} » n'est pas un domaine / is not a domain")
    return name


def _endpoint(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"« {value} » : écrire hôte:port / write host:port")
    return value


def _structure(value: str) -> str:
    if value:
        parse_structure_id(value)
    return value


Domain = Annotated[str, AfterValidator(_domain)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatorSection(Section):
    """Who this operator is."""

    hostname: Domain = Field(
        default="mss.exemple.mssante.fr",
        description="Name said in EHLO and written in Received; the CN of the TLS certificate.",
    )
    domains: tuple[Domain, ...] = Field(default=(), description="Mail domains whose mailboxes are here.")
    organisation: str = Field(default="", description="Legal name of the structure, as in its certificates (O).")
    structure_id: Annotated[str, AfterValidator(_structure)] = Field(
        default="", description="National identifier of the structure: 1 + FINESS or 3 + SIRET."
    )
    department: str = Field(default="", description="Department as in certificates (ST), such as Rhône (69).")
    sector: str = Field(default="SA01", description="Sector of activity (TRE_R02), sent in the VIHF.")


class ServicesSection(Section):
    """Which services `caducee serve` runs in this folder."""

    mail: bool = Field(default=True, description="Submission, reception, sending, IMAP and auto-configuration.")
    deposits: bool = Field(default=True, description="The worker that deposits documents in the patient's record.")
    directory: bool = Field(
        default=False, description="A private slapd, child of this program. Otherwise give [directory] url."
    )
    record: bool = Field(
        default=False,
        description="The embedded patient's record (practice and tests; the real one is the national DMP).",
    )


class ListenSection(Section):
    """Addresses and ports. 0 switches a listener off."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    submissions: Port = Field(default=465, description="Submission over TLS (RFC 8314).")
    submission: Port = Field(default=587, description="Submission with STARTTLS (RFC 6409).")
    reception: Port = Field(default=25, description="Reception from the other operators.")
    imaps: Port = Field(default=993, description="IMAP over TLS.")
    imap: Port = Field(default=143, description="IMAP with STARTTLS.")
    web: Port = Field(default=443, description="HTTPS: auto-configuration of mail clients, health.")
    ldap: Port = Field(
        default=10389,
        description="The directory, when it runs here (loopback, clear; slapd has no privilege: 1024 at least).",
    )
    ldaps: Port = Field(default=10636, description="The directory over TLS.")
    record: Port = Field(default=8443, description="The embedded record (mutual TLS).")

    @property
    def local_host(self) -> str:
        """Where programs of this machine reach the listeners."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    @classmethod
    def above(cls, base: int, host: str = "127.0.0.1") -> ListenSection:
        """The usual ports shifted by `base` (a multiple of 1000 that leaves them under 65536), for practice."""
        return cls(
            host=host,
            submissions=base + 465,
            submission=base + 587,
            reception=base + 25,
            imaps=base + 993,
            imap=base + 143,
            web=base + 443,
            ldap=base + 389,
            ldaps=base + 636,
            record=base + 843,
        )


class DatabaseSection(Section):
    """Where rows live; message contents are files under blobs/."""

    url: str = Field(default="", description="SQLAlchemy URL. Empty: SQLite, caducee.db in this folder.")


class TrustSection(Section):
    """The trust space: folder trust/ holds anchors/, intermediates/, crl/ and listeblanche.xml."""

    practice: bool = Field(
        default=False, description="True only for a practice trust space; practice authorities are refused otherwise."
    )
    authority: str = Field(
        default="",
        description="Practice only: folder of the authority that certifies new mailboxes (caducee pki create).",
    )
    signer_cn: str = Field(default="alb.mssante.fr", description="CN that the white list's signer must have.")
    warn_after_hours: Annotated[int, Field(gt=0)] = Field(
        default=24, description="Age of the list that raises a warning. Local choice, not a national rule."
    )
    stop_after_hours: Annotated[int, Field(gt=0)] = Field(
        default=168, description="Age of the list that stops exchanges. Local choice, not a national rule."
    )


class DirectorySection(Section):
    """The LDAP directory where recipients, senders and certificates are looked up."""

    url: str = Field(default="", description="ldap:// or ldaps:// URL. Empty: the private slapd of this folder.")
    ca_file: str = Field(default="", description="CA file that the ldaps:// server's certificate chains to.")
    bind_dn: str = Field(default="", description="DN used to publish our mailboxes. Empty: read only.")
    password_file: str = Field(default="", description="File holding that DN's password (mode 0600).")


class ProxySection(Section):
    """Protection on the sender's behalf (server-side keys)."""

    sign_per: Literal["always", "with_code"] = Field(
        default="always", description="PER and CAB mailboxes: sign every clear message, or only with a send code."
    )
    sign_org: Literal["always", "with_code"] = Field(default="always", description="ORG mailboxes, likewise.")
    sign_app: Literal["always", "with_code"] = Field(
        default="with_code", description="APP mailboxes (gateways), likewise."
    )
    encrypt: Literal["required", "when_possible"] = Field(
        default="when_possible",
        description="When a recipient has no certificate: refuse, or send signed inside the trust space over mutual TLS.",
    )


class DmpSection(Section):
    """Deposit of clinical documents in the patient's record."""

    deposit_on_sending: bool = Field(
        default=True, description="Deposit the documents of the messages our mailboxes send."
    )
    url: str = Field(default="", description="Base URL of the DMP services. Empty: no deposit.")
    source_id: str = Field(
        default="2.25.240911137062424011172911207190217265437",
        description="OID of this system, sourceId of the lots it submits.",
    )
    homologation: str = Field(default="NON-HOMOLOGUE", description="LPS_ID_HOMOLOGATION_DMP of the VIHF.")


class BearerSection(Section):
    """Login by the access token of an identity provider such as Pro Santé Connect (SASL XOAUTH2 and OAUTHBEARER)."""

    issuer: str = Field(default="", description="`iss` of the tokens. Empty: no login by token.")
    keys_url: str = Field(
        default="",
        description="https:// URL of the issuer's keys (JWKS). Empty: <issuer>/protocol/openid-connect/certs.",
    )
    ca_file: str = Field(
        default="", description="CA file that the provider's certificate chains to. Empty: the system's."
    )
    audience: tuple[str, ...] = Field(
        default=(), description="Client ids whose tokens are taken (`aud` or `azp`). Empty: those of any client."
    )
    claims: tuple[str, ...] = Field(
        default=("SubjectNameID", "preferred_username"),
        description="Claims that may hold the national identifier, in order; it must be the mailbox owner's.",
    )


class LimitsSection(Section):
    """Bounds on what is accepted."""

    message_mib: Annotated[int, Field(ge=1, le=100)] = Field(default=25, description="Largest message, in MiB.")
    recipients: Annotated[int, Field(ge=1, le=1000)] = Field(default=100, description="Recipients of one message.")
    queue_hours: Annotated[int, Field(ge=1)] = Field(
        default=48, description="How long delivery is tried before the sender is told it failed."
    )
    retry_seconds: Annotated[int, Field(ge=1)] = Field(
        default=60, description="First pause before a delivery is tried again; doubled each time, up to an hour."
    )


class LogsSection(Section):
    """What the program says of itself. No content, subject, INS or secret at any level."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important line written."
    )
    format: Literal["json", "console"] = Field(default="json", description="json for machines, console for people.")


class Settings(BaseSettings):
    """All the sections. Build with `load_settings`."""

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
    bearer: BearerSection = BearerSection()
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
    _check_variables()
    file = folder / SETTINGS_FILE
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{file}: absent. « caducee init {folder} » le crée / creates it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: illisible / unreadable: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: TOML invalide / invalid: {error}") from None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(file, item["loc"], item["msg"]) for item in error.errors())) from None
    except SourceError as error:
        # A tuple or a whole section that is no JSON; the library's text names the field, and its cause the value.
        raise SettingsError(
            f"{_VARIABLE}*: {error}: JSON attendu / expected: '[\"a.fr\"]', '{{\"imaps\": 993}}'"
        ) from None
    if problems := _incoherences(settings):
        raise SettingsError("\n".join(f"{problem} ({file})" for problem in problems))
    return settings


def used_ports(settings: Settings) -> dict[str, int]:
    """The ports that the services of these settings listen on, by key of [listen]."""
    services = settings.services
    keys = [*(MAIL_PORTS if services.mail else ()), *(("ldap", "ldaps") if services.directory else ())]
    keys += ["record"] if services.record else []
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
