"""The configuration of our slapd, as LDIF for cn=config, and where its parts are on this system.

Invariants: anonymous readers see the listed public attributes of mailboxes and nothing else; entries on the red list
are invisible to them; only the operator's DN writes; nothing is logged (filters hold names); every search is bounded in
time, size and candidates; every path in it is relative to the folder slapd is started in (so spaces and closed
parent folders do no harm); cn=config itself has no reader and no writer.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import argon2
import ldap

from directory.entry import BASE
from directory.errors import DirectoryError

ADMIN_RDN: Final = "cn=operateur"
CERTIFICATE_FILE: Final = "tls/certificat.pem"
KEY_FILE: Final = "tls/cle.pem"
STANDARD_SCHEMAS: Final = ("core", "cosine", "inetorgperson")

_MODULE_FOLDERS: Final = ("/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap", "/usr/libexec/openldap")
_SCHEMA_FOLDERS: Final = ("/etc/ldap/schema", "/etc/openldap/schema")
_SEARCH_PATH: Final = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/bin:/usr/local/bin:/usr/lib/openldap:/usr/libexec"

PUBLIC_ATTRIBUTES: Final = (
    "entry", "objectClass", "ou", "mail", "TypeBAL", "givenName", "sn", "displayName", "IdentifiantPP",
    "TypeIdentifiantPP", "profession", "savoirFaire", "IdentifiantPM", "TypeIdentifiantPM", "o", "l", "description",
    "userCertificate",
)  # fmt: skip
# What people type of a surname is its beginning. slapd in fact makes keys for any four letters with `subinitial` too; an
# infix of fewer letters, or on another attribute, has the whole directory as candidates and meets `Limits.unchecked`.
INDEXES: Final = (
    "objectClass eq", "mail eq", "IdentifiantPP eq", "IdentifiantPM eq", "sn eq,subinitial", "givenName eq",
    "profession eq", "l eq", "TypeBAL eq", "listeRouge eq",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one search by anybody but the operator's DN.

    `size`/`size_hard`: entries given by default and at most; `seconds`: time; `unchecked`: candidates the indexes
    may leave to examine (a filter without an index has the whole directory as candidates); `database`: bytes of the
    LMDB map.
    """

    size: int = 200
    size_hard: int = 500
    seconds: int = 5
    unchecked: int = 10_000
    database: int = 2 * 1024**3


def admin_dn(base: str = BASE) -> str:
    """The only DN that may write."""
    return f"{ADMIN_RDN},{base}"


def find_program(name: str) -> str:
    """Absolute path of a system program. Raises DirectoryError that says which package to install."""
    path = shutil.which(name, path=_SEARCH_PATH)
    if path is None:
        package = "slapd" if name.startswith("slap") else "util-linux, coreutils"
        raise DirectoryError(
            f"Programme « {name} » introuvable : installer le paquet {package} (Debian : apt install {package}) "
            f"/ program {name} not found: install package {package}"
        )
    return path


def _modules() -> tuple[str, list[str]]:
    """(folder, modules to load): back_mdb when it is a module, argon2 when there is one."""
    for folder in _MODULE_FOLDERS:
        names = [name for name in ("back_mdb", "argon2") if any(Path(folder).glob(f"{name}.*"))]
        if names:
            return folder, names
    return "", []


def hash_password(password: str) -> str:
    """The admin's password as slapd stores it: {ARGON2} (argon2id) when slapd has that module, else salted {SSHA}.

    Raises DirectoryError for an empty password (an empty one would turn binds into anonymous ones, RFC 4513 §5.1.2).
    """
    if not password:
        raise DirectoryError("Mot de passe d'administration vide / empty administration password")
    if "argon2" in _modules()[1]:
        # parallelism 1: the only value every slapd build (libargon2 or libsodium) verifies; the rest is OWASP's
        # minimum.
        hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        return "{ARGON2}" + hasher.hash(password)
    salt = secrets.token_bytes(16)
    # SSHA is the strongest scheme every slapd has without modules.
    digest = hashlib.sha1(password.encode() + salt).digest()  # noqa: S324
    return "{SSHA}" + base64.b64encode(digest + salt).decode()


def schema_files() -> list[Path]:
    """The LDIF files of the standard schemas. Raises DirectoryError when one is missing."""
    for folder in _SCHEMA_FOLDERS:
        files = [Path(folder) / f"{name}.ldif" for name in STANDARD_SCHEMAS]
        if all(file.is_file() for file in files):
            return files
    raise DirectoryError(
        "Schémas LDAP standard introuvables (core, cosine, inetorgperson) : réinstaller le paquet slapd "
        "/ standard LDAP schemas not found: reinstall package slapd"
    )


def configuration_ldif(*, password_hash: str, base: str, tls: bool, limits: Limits) -> str:
    """The whole cn=config as LDIF for `slapadd -n 0`. Raises DirectoryError when parts of slapd are missing."""
    blocks = [_global(tls)]
    folder, modules = _modules()
    if modules:
        loads = "".join(f"olcModuleLoad: {{{number}}}{name}\n" for number, name in enumerate(modules))
        blocks.append(
            "dn: cn=module{0},cn=config\nobjectClass: olcModuleList\ncn: module{0}\n"
            f"olcModulePath: {folder}\n{loads}"
        )
    blocks.append("dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n")
    blocks += [file.read_text("utf-8") for file in schema_files()]
    blocks.append(resources.files("directory").joinpath("schema.ldif").read_text("utf-8"))
    blocks.append(_frontend())
    blocks.append(_database(password_hash, base, limits))
    return "\n".join(block.strip() + "\n" for block in blocks)


def _global(tls: bool) -> str:
    lines = [
        "dn: cn=config",
        "objectClass: olcGlobal",
        "cn: config",
        "olcLogLevel: 0",
        "olcIdleTimeout: 900",
        "olcWriteTimeout: 30",
        "olcThreads: 8",
        "olcSizeLimit: 200",
        "olcTimeLimit: 5",
        "olcLocalSSF: 0",
    ]
    if tls:
        lines += [
            f"olcTLSCertificateFile: {CERTIFICATE_FILE}",
            f"olcTLSCertificateKeyFile: {KEY_FILE}",
            "olcTLSProtocolMin: 3.3",
            "olcTLSVerifyClient: never",
            *_gnutls_versions(),
        ]
    return "\n".join(lines) + "\n"


def _gnutls_versions() -> list[str]:
    """GnuTLS ignores olcTLSProtocolMin (slapd-config(5)) and takes versions in its priority string, OpenSSL the reverse.

    The library is the one of the libldap in this process, which is slapd's own where both come from the system.
    """
    if str(ldap.get_option(ldap.OPT_X_TLS_PACKAGE)) != "GnuTLS":
        return []
    return ["olcTLSCipherSuite: SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA"]


def _frontend() -> str:
    return (
        "dn: olcDatabase={-1}frontend,cn=config\n"
        "objectClass: olcDatabaseConfig\nobjectClass: olcFrontendConfig\nolcDatabase: {-1}frontend\n"
        'olcAccess: {0}to dn.base="" by * read\n'
        'olcAccess: {1}to dn.base="cn=subschema" by * read\n'
        "olcAccess: {2}to * by * none\n"
        "\n"
        "dn: olcDatabase={0}config,cn=config\n"
        "objectClass: olcDatabaseConfig\nolcDatabase: {0}config\nolcAccess: {0}to * by * none\n"
    )


def _database(password_hash: str, base: str, limits: Limits) -> str:
    public = ",".join(PUBLIC_ATTRIBUTES)
    lines = [
        "dn: olcDatabase={1}mdb,cn=config",
        "objectClass: olcDatabaseConfig",
        "objectClass: olcMdbConfig",
        "olcDatabase: {1}mdb",
        f"olcSuffix: {base}",
        f"olcRootDN: {admin_dn(base)}",
        f"olcRootPW: {password_hash}",
        "olcDbDirectory: data",
        "olcDbMode: 0600",
        f"olcDbMaxSize: {limits.database}",
        f"olcLimits: {{0}}* time.soft={limits.seconds} time.hard={limits.seconds} size.soft={limits.size} "
        f"size.hard={limits.size_hard} size.unchecked={limits.unchecked}",
        "olcAccess: {0}to filter=(listeRouge=TRUE) by * none",
        f'olcAccess: {{1}}to dn.subtree="ou=bal,{base}" attrs={public} by * read',
        f'olcAccess: {{2}}to dn.base="{base}" by * read',
        "olcAccess: {3}to * by * none",
        *(f"olcDbIndex: {index}" for index in INDEXES),
    ]
    return "\n".join(lines) + "\n"
