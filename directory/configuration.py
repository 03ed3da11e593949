"""The configuration of our slapd, as LDIF for cn=config, and where its parts are on this system.

Invariants: the rights are those of `rights`; nothing is logged but changes, in a journal only administrators read
(filters hold names); every search is bounded in time, size and candidates; every path in it is relative to the folder
slapd is started in (so spaces and closed parent folders do no harm); cn=config is this program's own: no LDAP account
reads or writes it, only the local user that runs the operator, over ldapi.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import argon2
import ldap

from directory.entry import BASE
from directory.errors import DirectoryError
from directory.rights import READER, access_lines, account_dn, admin_dn, certificate_mapping, journal_access, peer_dn

CERTIFICATE_FILE: Final = "tls/certificat.pem"
KEY_FILE: Final = "tls/cle.pem"
AUTHORITIES_FILE: Final = "tls/autorites.pem"
CRL_FILE: Final = "tls/revocations.pem"
JOURNAL: Final = "cn=journal"
DATABASE: Final = "olcDatabase={1}mdb,cn=config"
MONITOR: Final = "cn=Databases,cn=Monitor"
# One write to the disk a change instead of two. A power cut may undo the last change, never leave half of one.
_SERVED: Final = ("nometasync",)
# Pages changed in place in the memory map, written when the kernel wants: twice as fast as `nosync` alone.
_ASIDE: Final = ("nosync", "writemap")
STANDARD_SCHEMAS: Final = ("core", "cosine", "inetorgperson")

_MODULE_FOLDERS: Final = ("/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap", "/usr/libexec/openldap")
_SCHEMA_FOLDERS: Final = ("/etc/ldap/schema", "/etc/openldap/schema")
_MODULES: Final = ("back_mdb", "argon2", "syncprov", "accesslog", "back_monitor")

# The attributes that address books search by any part (Thunderbird: name, first name, surname, address, organisation,
# department, job title) have keys of three letters; one of them without keys would make the whole "or" a scan. What is
# neither here nor indexed leaves the whole directory as candidates, and meets `Limits.unchecked`.
# `name` is the supertype of cn, o, ou, title, l and cleRecherche (RFC 4519 §2.18): one index holds what their values have
# in common once, a third of a load's time less than an index each. `sn` and `givenName` have their own: in the common
# one, the surname PARIS would have every entry of that town as candidates.
INDEXES: Final = (
    "objectClass eq", "entryCSN eq", "entryUUID eq", "IdentifiantPP eq", "IdentifiantPM eq", "idNatStruct eq",
    "profession eq", "savoirFaire eq", "departement eq", "postalCode eq", "TypeBAL eq", "listeRouge eq",
    "suspendue eq", "origine eq", "sujetCertificat eq", "member eq",
    "name,sn,givenName eq,subinitial,subany", "mail eq,sub",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one search by anybody but the operator's own accounts.

    `size`/`size_hard`: entries given by default and at most; `seconds`: time; `unchecked`: candidates the indexes
    may leave to examine (a filter without an index has the whole directory as candidates); `database`: bytes of the
    LMDB map (address space, not disk); `journal_days`: how long changes are remembered.
    """

    size: int = 200
    size_hard: int = 500
    seconds: int = 5
    unchecked: int = 10_000
    database: int = 16 * 1024**3
    journal_days: int = 31


@dataclass(frozen=True, slots=True)
class Configuration:
    """What differs between two slapds of ours. `data` is the folder of the database, relative to slapd's.

    `aside`: it is for data that is being made and that nobody is served from (`loading`): no journal, which is the serving
    slapd's, and no waiting for the disk, because that data is made durable as a whole before it is served.
    """

    password_hash: str
    data: str
    base: str = BASE
    tls: bool = False
    client_certificates: bool = False
    revocations: bool = False
    limits: Limits = Limits()
    domains: Sequence[str] = ()
    aside: bool = False


def _modules() -> tuple[str, list[str]]:
    """(folder, modules to load): those of ours that are modules here; a build may have some of them inside."""
    for folder in _MODULE_FOLDERS:
        names = [name for name in _MODULES if any(Path(folder).glob(f"{name}.*"))]
        if names:
            return folder, names
    return "", []


def hash_password(password: str) -> str:
    """A password as slapd stores it: {ARGON2} (argon2id) when slapd has that module, else salted {SSHA}.

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


def configuration_ldif(configuration: Configuration) -> str:
    """The whole cn=config as LDIF for `slapadd -n 0`. Raises DirectoryError when parts of slapd are missing."""
    blocks = [_global(configuration)]
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
    blocks.append(_database(configuration))
    if not configuration.aside:
        blocks += [_recording(configuration), _journal(configuration)]
    return "\n".join(block.strip() + "\n" for block in blocks)


def _global(configuration: Configuration) -> str:
    lines = [
        "dn: cn=config",
        "objectClass: olcGlobal",
        "cn: config",
        "olcLogLevel: 0",
        "olcIdleTimeout: 0",  # the consumer of changes waits in silence; connections are bounded by the open files
        "olcWriteTimeout: 30",
        "olcThreads: 16",
        "olcToolThreads: 1",  # a second one waits for the first at each entry: measured slower
        "olcSizeLimit: 200",
        "olcTimeLimit: 5",
        "olcLocalSSF: 128",
        "olcIndexSubstrIfMaxLen: 3",
        "olcIndexSubstrAnyLen: 3",
        "olcIndexSubstrAnyStep: 1",
        "olcSockbufMaxIncoming: 262144",
        "olcSockbufMaxIncomingAuth: 4194304",  # an entry with its certificates and a CA's list of revocations
        "olcConnMaxPending: 100",
        f"olcAuthzRegexp: {{0}}{certificate_mapping(configuration.base)}",
    ]
    if configuration.tls:
        lines += [
            f"olcTLSCertificateFile: {CERTIFICATE_FILE}",
            f"olcTLSCertificateKeyFile: {KEY_FILE}",
            "olcTLSProtocolMin: 3.3",
            *_suites(),
        ]
        trust = client_trust(configuration.client_certificates, configuration.revocations)
        lines += [f"{name}: {value}" for name, value in trust.items() if value]
    return "\n".join(lines) + "\n"


def client_trust(authorities: bool, revocations: bool) -> dict[str, str]:
    """The attributes of cn=config that say whose certificates may bind; an empty value is one to leave out.

    `authorities`, `revocations`: whether those files are there.
    """
    return {
        # `try`: no certificate is an anonymous client; one that does not verify ends the connection.
        "olcTLSVerifyClient": "try" if authorities else "never",
        "olcTLSCACertificateFile": AUTHORITIES_FILE if authorities else "",
        "olcTLSCRLFile": CRL_FILE if authorities and revocations and _gnutls() else "",
    }


def _gnutls() -> bool:
    """Whether slapd's TLS library is GnuTLS.

    It is the one of the libldap in this process, which is slapd's own where both come from the system.
    """
    return str(ldap.get_option(ldap.OPT_X_TLS_PACKAGE)) == "GnuTLS"


def _suites() -> list[str]:
    """The four suites of ECO.1.1.3 and TLS 1.3, in the words of slapd's TLS library. GnuTLS ignores olcTLSProtocolMin
    (slapd-config(5)) and takes versions in its priority string, OpenSSL the reverse."""
    return [f"olcTLSCipherSuite: {_GNUTLS_PRIORITY if _gnutls() else _OPENSSL_SUITES}"]


_OPENSSL_SUITES = (
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256"
)
_GNUTLS_PRIORITY = (
    "NONE:+VERS-TLS1.3:+VERS-TLS1.2:+ECDHE-RSA:+AES-256-GCM:+AES-128-GCM:+AES-256-CBC:+AES-128-CBC:+AEAD:+SHA384:+SHA256"
    ":+COMP-NULL:+GROUP-ALL:+SIGN-ALL:+CTYPE-X509"
)


def _frontend() -> str:
    return (
        "dn: olcDatabase={-1}frontend,cn=config\n"
        "objectClass: olcDatabaseConfig\nobjectClass: olcFrontendConfig\nolcDatabase: {-1}frontend\n"
        'olcAccess: {0}to dn.base="" by * read\n'
        'olcAccess: {1}to dn.base="cn=subschema" by * read\n'
        "olcAccess: {2}to * by * none\n"
        "\n"
        "dn: olcDatabase={0}config,cn=config\n"
        "objectClass: olcDatabaseConfig\nolcDatabase: {0}config\n"
        f'olcAccess: {{0}}to * by dn.exact="{peer_dn()}" manage by * none\n'
    )


def _database(configuration: Configuration) -> str:
    base, limits = configuration.base, configuration.limits
    bounds = (
        f"time.soft={limits.seconds} time.hard={limits.seconds} size.soft={limits.size} "
        f"size.hard={limits.size_hard} size.unchecked={limits.unchecked}"
    )
    lines = [
        f"dn: {DATABASE}",
        "objectClass: olcDatabaseConfig",
        "objectClass: olcMdbConfig",
        "olcDatabase: {1}mdb",
        f"olcSuffix: {base}",
        f"olcRootDN: {admin_dn(base)}",
        f"olcRootPW: {configuration.password_hash}",
        f"olcDbDirectory: {configuration.data}",
        "olcDbMode: 0600",
        f"olcDbMaxSize: {limits.database}",
        *(f"olcDbEnvFlags: {flag}" for flag in (_ASIDE if configuration.aside else _SERVED)),
        f'olcLimits: {{0}}dn.exact="{peer_dn()}" time=unlimited size=unlimited',
        # The consumer of changes asks for everything newer than what it knows, however much that is.
        f'olcLimits: {{1}}dn.exact="{account_dn(READER, base)}" time.soft={limits.seconds} time.hard=unlimited '
        f"size.soft={limits.size} size.hard=unlimited size.unchecked=unlimited",
        f"olcLimits: {{2}}* {bounds}",
        *(f"olcAccess: {{{n}}}{line}" for n, line in enumerate(access_lines(base, configuration.domains))),
        *(f"olcDbIndex: {index}" for index in INDEXES),
        "",
        f"dn: olcOverlay={{0}}syncprov,{DATABASE}",
        "objectClass: olcOverlayConfig",
        "objectClass: olcSyncProvConfig",
        "olcOverlay: {0}syncprov",
        "olcSpSessionlog: 5000",
    ]
    return "\n".join(lines) + "\n"


def _recording(configuration: Configuration) -> str:
    """What writes each change of the mailboxes' database in the journal."""
    lines = [
        f"dn: olcOverlay={{1}}accesslog,{DATABASE}",
        "objectClass: olcOverlayConfig",
        "objectClass: olcAccessLogConfig",
        "olcOverlay: {1}accesslog",
        f"olcAccessLogDB: {JOURNAL}",
        "olcAccessLogOps: writes",
        "olcAccessLogSuccess: TRUE",
    ]
    return "\n".join(lines) + "\n"


def _journal(configuration: Configuration) -> str:
    """The journal of changes, which outlives every load of the data; then the counters that `health` reads.

    Old lines of the journal are removed by an accesslog of an empty, hidden database that is there for that alone: were it the
    one of a database that a load closes, slapd 2.5 might go on removing in freed memory (ADR 0064).
    """
    base = configuration.base
    lines = [
        "dn: olcDatabase={2}mdb,cn=config",
        "objectClass: olcDatabaseConfig",
        "objectClass: olcMdbConfig",
        "olcDatabase: {2}mdb",
        f"olcSuffix: {JOURNAL}",
        f"olcRootDN: {admin_dn(base)}",  # the accesslog overlay writes as the rootdn of its database
        "olcDbDirectory: journal",
        "olcDbMode: 0600",
        "olcDbMaxSize: 8589934592",
        # A power cut may cost the last seconds of the journal, never the data; killed, slapd loses nothing.
        "olcDbNoSync: TRUE",
        "olcDbCheckpoint: 1024 1",
        "olcDbIndex: objectClass,reqStart,reqEnd,reqDN,reqAuthzID,reqType,entryCSN eq",
        "olcSizeLimit: unlimited",
        # Passwords, even hashed, are read from the journal by nobody.
        f"olcAccess: {{0}}to filter=(reqDN:dnSubtreeMatch:=ou=comptes,{base}) attrs=reqMod,reqOld by * none",
        f"olcAccess: {{1}}{journal_access(base)}",
        "",
        "dn: olcDatabase={3}monitor,cn=config",
        "objectClass: olcDatabaseConfig",
        "olcDatabase: {3}monitor",
        f'olcAccess: {{0}}to * by dn.exact="{peer_dn()}" read by * none',
        "",
        "dn: olcDatabase={4}ldif,cn=config",
        "objectClass: olcDatabaseConfig",
        "objectClass: olcLdifConfig",
        "olcDatabase: {4}ldif",
        "olcSuffix: cn=entretien",
        "olcDbDirectory: run",
        "olcHidden: TRUE",
        "olcReadOnly: TRUE",
        "olcAccess: {0}to * by * none",
        "",
        "dn: olcOverlay={0}accesslog,olcDatabase={4}ldif,cn=config",
        "objectClass: olcOverlayConfig",
        "objectClass: olcAccessLogConfig",
        "olcOverlay: {0}accesslog",
        f"olcAccessLogDB: {JOURNAL}",
        f"olcAccessLogPurge: {configuration.limits.journal_days:02d}+00:00 01+00:00",
    ]
    return "\n".join(lines) + "\n"
