"""The agent's settings: `agent.toml` in its folder, beside the operator's authorities. No password and no PIN in it."""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from caducee.errors import UsageError
from smime.cps_remote import national_library
from trustspace import pem

AGENT_FILE = "agent.toml"
ANCHORS_FILE = "autorites.pem"
NATIONAL = "national"
Port = Annotated[int, Field(ge=0, le=65535)]


class AgentSettings(BaseModel):
    """What the agent does, for whom, through which operator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="The mailbox whose messages are signed: MAIL FROM and nothing else.")
    host: str = Field(description="The operator's submission server.")
    port: Port = Field(default=465, description="Its port, TLS from the start (RFC 8314).")
    imap_port: Port = Field(default=993, description="Its IMAP port over TLS.")
    login: Literal["account", "card"] = Field(
        default="account",
        description="How the operator is logged in to: the mail program's own password, handed on, or the card.",
    )
    listen_port: Port = Field(default=20587, description="SMTP for the mail program, on loopback only.")
    listen_imap_port: Port = Field(default=0, description="IMAP for the mail program, on loopback only; 0: none.")
    local_password_sha256: str = Field(
        default="", description="login = card: SHA-256 of the random password the mail program shows to the agent."
    )
    pkcs11_library: str = Field(
        default="",
        description="PKCS#11 library that reaches the card; national: the one of Cryptolib CPS, where it is installed. "
        "Empty: the agent's own driver, by PC/SC.",
    )
    reader: str = Field(default="", description="Part of the reader's name, when there are several.")
    pin_minutes: Annotated[int, Field(ge=0, le=480)] = Field(
        default=10, description="How long the PIN is kept in memory; 0: asked for each message."
    )
    confirm: Literal["each", "pin"] = Field(
        default="each", description="Show each message before signing and wait for an answer, or only with the PIN."
    )
    display: Literal["auto", "terminal", "window"] = Field(
        default="auto", description="Where to ask: auto is the terminal when there is one, else a window."
    )
    message_mib: Annotated[int, Field(ge=1, le=100)] = Field(default=25, description="Largest message, in MiB.")


def load(folder: Path) -> AgentSettings:
    """Read the agent's settings. Raises UsageError with one `key: reason` a line."""
    file = folder / AGENT_FILE
    try:
        values = tomllib.loads(file.read_text("utf-8"))
        return AgentSettings(**values)
    except FileNotFoundError:
        raise UsageError(f"{file}: absent. « caducee agent init » le crée / creates it") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: illisible / unreadable: {error}") from None
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, one['loc']))}: {one['msg']} ({file})" for one in error.errors())
        raise UsageError("\n".join(lines)) from None


def library(settings: AgentSettings) -> str:
    """The PKCS#11 library of the settings, "" for the agent's own driver. Raises UsageError when it is not there."""
    if settings.pkcs11_library == NATIONAL:
        found = national_library()
        if not found:
            raise UsageError(
                "pkcs11_library: la bibliothèque nationale (Cryptolib CPS) n'est pas installée ; laisser vide pour lire la "
                "carte directement / the national library is not installed; leave it empty to read the card directly"
            )
        return found
    if settings.pkcs11_library and not Path(settings.pkcs11_library).exists():
        raise UsageError(f"pkcs11_library: {settings.pkcs11_library}: absent / not found")
    return settings.pkcs11_library


def create(folder: Path, settings: AgentSettings, authorities: Sequence[x509.Certificate]) -> Path:
    """Write the agent's folder: its settings, readable by its owner alone, and the operator's authorities. Returns the
    settings file. Raises UsageError when there is one already."""
    file = folder / AGENT_FILE
    if file.exists():
        raise UsageError(f"{file} existe déjà / already exists")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / ANCHORS_FILE).write_bytes(pem.chain_to_pem(authorities))
    pem.write_private(file, as_toml(settings).encode())
    return file


def as_toml(settings: AgentSettings) -> str:
    """The settings as a commented file."""
    lines = ["# Agent de poste Caducée / Caducée desk agent"]
    for name, field in AgentSettings.model_fields.items():
        value = getattr(settings, name)
        text = (
            str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        )
        lines += ["", f"# {field.description}", f"{name} = {text}"]
    return "\n".join(lines) + "\n"


def local_digest(password: str) -> str:
    """What is kept of the local password, which is random: its SHA-256."""
    return hashlib.sha256(b"caducee agent\0" + password.encode("utf-8", "replace")).hexdigest()


def local_password_is(settings: AgentSettings, password: str) -> bool:
    """Compared in constant time; no password at all is kept means no."""
    expected = settings.local_password_sha256
    return bool(expected) and hmac.compare_digest(local_digest(password), expected)
