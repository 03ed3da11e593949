"""slapd as a private child process: its folder, its start, its end.

Invariants
* The data (`data-N/`) is the truth; cn=config (`slapd.d/`) is derived from the code and rebuilt at each start, so an
  upgrade or a new certificate needs no migration of it; data made by an older version is upgraded before it is served.
* slapd never runs as root, and dies with the process that started it (see `tools`); killed, it leaves its data whole
  (LMDB).
* Clear-text LDAP is offered on the loopback interface and on a Unix socket of slapd's user only.
* Which `data-N` is served is one line of cn=config, changed by slapd itself: a load is never half visible (`loading`).
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import ldap

from directory.client import Directory
from directory.configuration import (
    AUTHORITIES_FILE,
    CERTIFICATE_FILE,
    CRL_FILE,
    KEY_FILE,
    Configuration,
    Limits,
    configuration_ldif,
    hash_password,
)
from directory.entry import BASE, Entry, ldif_text, skeleton, to_attributes
from directory.errors import DirectoryError, DirectoryUnavailable
from directory.generations import FORMAT, FORMAT_FILE, Generations
from directory.rights import admin_dn, service_entries
from directory.tools import TOOL_SECONDS, account, find_program, first_lines, own, prefix, run_tool, write_private

SOCKET: Final = "run/ldapi"
_OWNED: Final = ("run", "journal", "slapd.d", "slapd.d.new", "tls")
_LONGEST_SOCKET: Final = 100  # sun_path holds 108 bytes


class Slapd:
    """A private slapd in `folder`, listening on `ldap://127.0.0.1:ldap_port`, on a Unix socket of its folder and, with a
    certificate, on `ldaps://host:ldaps_port`.

    `certificate` is a PEM chain, leaf first; `key` its PEM private key, without a passphrase. Clients should connect
    to an IP address that the certificate names (libldap replaces `localhost` by the machine's name before it compares).
    `domains` are the mail domains whose entries the writer's account may change. `client_trust` gives, as PEM, the
    authorities whose client certificates are accepted and their lists of revocations; it is called at each start.
    Raises DirectoryError on impossible settings.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ldap_port: int,
        ldaps_port: int | None = None,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        key: Path | None = None,
        base: str = BASE,
        limits: Limits | None = None,
        domains: Sequence[str] = (),
        client_trust: Callable[[], tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.base = base
        self.domains = tuple(domains)
        self.generations = Generations(self.folder)
        self._limits = limits or Limits()
        self._client_trust = client_trust
        self._tls = _tls_files(ldaps_port, certificate, key)
        self._listeners = [(loopback_address(host), ldap_port, "ldap")]
        if ldaps_port is not None:
            self._listeners.append((host, ldaps_port, "ldaps"))
        for _, port, _ in self._listeners:
            if not 1024 <= port <= 65535:
                raise DirectoryError(
                    f"Port LDAP {port} refusé : slapd tourne sans privilèges, choisir 1024 à 65535 "
                    f"/ LDAP port {port} refused: slapd runs unprivileged, choose 1024 to 65535"
                )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of the clear-text loopback listener."""
        return _url(*self._listeners[0])

    @property
    def ldaps_url(self) -> str | None:
        """URL of the TLS listener, when there is one."""
        return _url(*self._listeners[1]) if len(self._listeners) > 1 else None

    @property
    def admin_dn(self) -> str:
        """The rootdn; its password is the one given to `initialise`."""
        return admin_dn(self.base)

    @property
    def pid(self) -> int | None:
        """Process id of the slapd started by `start`, if any."""
        return self._process.pid if self._process else None

    @property
    def initialised(self) -> bool:
        """Whether `initialise` has run to its end in this folder."""
        return self._hash_file.is_file()

    @property
    def _hash_file(self) -> Path:
        return self.folder / "operateur.hash"

    # -- making ------------------------------------------------------------------------------------------------------

    def initialise(
        self, entries: Iterable[Entry], admin_password: str, accounts: Mapping[str, str] | None = None
    ) -> None:
        """Build configuration and data in the folder; what an interrupted attempt left is made anew.

        `accounts` gives the passwords of the reader's and writer's accounts; one without a password cannot bind. Raises
        DirectoryError when the folder is already initialised, an entry is refused (two entries with one address
        included), or slapd's tools are missing or fail.
        """
        if self.initialised:
            raise DirectoryError(
                f"L'annuaire est déjà initialisé, effacer ce dossier pour recommencer : {self.folder} "
                "/ directory already initialised: delete this folder to begin again"
            )
        password_hash = hash_password(admin_password)
        hashes = {name: hash_password(password) for name, password in (accounts or {}).items()}
        records = [*skeleton(self.base), *service_entries(hashes, self.base)]
        records += [(entry.dn, to_attributes(entry)) for entry in entries]
        self._make_folder()
        shutil.rmtree(self.folder / "journal", ignore_errors=True)
        self.generations.clear()
        name = self.generations.fresh()
        self.build(name, [ldif_text(records).encode()], password_hash=password_hash)
        self.generations.adopt(name)
        self.build_configuration(name, password_hash)
        write_private(self._hash_file, password_hash.encode())  # last: its presence is what says "initialised"

    def build(self, name: str, chunks: Iterable[bytes], *, password_hash: str = "") -> None:
        """Fill the new data folder `name` with LDIF `chunks` (slapadd). Raises DirectoryError; nothing is served yet."""
        configuration = f"slapd.{name}"
        try:
            self.configure(configuration, name, password_hash or self._password_hash())
            own(self.folder, [name, configuration, "journal"])
            # -w: the last change number is written, so that consumers need not look for it in every entry.
            command = ["slapadd", "-q", "-w", "-F", configuration, "-b", self.base]
            run_tool(self.folder, command, chunks, "les données / the data")
            write_private(self.folder / name / FORMAT_FILE, str(FORMAT).encode())
        finally:
            shutil.rmtree(self.folder / configuration, ignore_errors=True)

    def prepare(self) -> None:
        """Rebuild cn=config, put the TLS files in place, upgrade the data when an older version made it. Needs an
        initialised folder, and slapd stopped.
        """
        if not self.initialised:
            raise DirectoryError(
                f"L'annuaire n'est pas initialisé : {self.folder} / the directory is not initialised (call initialise)"
            )
        from directory.upgrading import upgrade  # the upgrade reads and loads through this class

        self._make_folder()
        name = upgrade(self, self.generations.current())
        self.build_configuration(name, self._password_hash())
        self.generations.prune(name)

    def _password_hash(self) -> str:
        return self._hash_file.read_text("ascii").strip()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The folder stays root's: slapd may enter it, but neither rename its parts nor read the password hash's
            # file.
            self.folder.chmod(0o700 if account() is None else 0o711)
            for part in ("run", "journal"):
                (self.folder / part).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DirectoryError(f"Dossier de l'annuaire inutilisable : {self.folder} ({error.strerror})") from error

    def configure(self, target: str, data: str, password_hash: str = "") -> None:
        """Make a cn=config folder `target` for the data folder `data`."""
        self._install_tls()
        trust = [(self.folder / name).exists() for name in (AUTHORITIES_FILE, CRL_FILE)]
        (self.folder / "journal").mkdir(mode=0o700, exist_ok=True)
        configuration = Configuration(
            password_hash=password_hash or self._password_hash(),
            data=data,
            base=self.base,
            tls=self._tls is not None,
            client_certificates=trust[0],
            revocations=trust[1],
            limits=self._limits,
            domains=self.domains,
        )
        fresh = self.folder / target
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        own(self.folder, [*_OWNED, target, data])
        text = configuration_ldif(configuration)
        command = ["slapadd", "-F", target, "-n", "0"]
        run_tool(self.folder, command, [text.encode()], "la configuration / the configuration")

    def build_configuration(self, data: str, password_hash: str = "") -> None:
        """Make `slapd.d` anew, serving `data`. slapd must be stopped."""
        self.configure("slapd.d.new", data, password_hash)
        shutil.rmtree(self.folder / "slapd.d", ignore_errors=True)
        (self.folder / "slapd.d.new").rename(self.folder / "slapd.d")

    def _install_tls(self) -> None:
        if self._tls is None:
            return
        (self.folder / "tls").mkdir(mode=0o700, exist_ok=True)
        for source, target in zip(self._tls, (CERTIFICATE_FILE, KEY_FILE), strict=True):
            try:
                content = source.read_text("ascii")
            except (OSError, UnicodeError) as error:
                raise DirectoryError(
                    f"Certificat ou clé TLS de l'annuaire illisible : {source} / unreadable TLS certificate or key"
                ) from error
            write_private(self.folder / target, content.encode())
        trust = self._client_trust() if self._client_trust else (b"", b"")
        for target, pem in zip((AUTHORITIES_FILE, CRL_FILE), trust, strict=True):
            if pem:
                write_private(self.folder / target, pem)
            else:
                (self.folder / target).unlink(missing_ok=True)

    # -- running -----------------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """Argument list of the foreground slapd, for a supervisor; calls `prepare` first.

        The process keeps one pid, ends on SIGTERM or SIGINT, writes nothing, and gets SIGTERM when the *thread* that
        started it ends (that is how PR_SET_PDEATHSIG works): start it from a thread that lives as long as the program,
        after `check_ports` (a slapd that finds its port taken ends at once, silently). Raises DirectoryError.
        """
        self.prepare()
        listeners = [_url(*listener) for listener in self._listeners]
        return self.slapd_command("slapd.d", [*listeners, socket_url(SOCKET)])

    def slapd_command(self, configuration: str, urls: Sequence[str]) -> list[str]:
        """Argument list of a slapd in this folder, on the cn=config folder `configuration`."""
        return [*prefix(self.folder), find_program("slapd"), "-d", "0", "-F", configuration, "-h", " ".join(urls)]

    def check_ports(self) -> None:
        """Raise DirectoryError when another program holds one of our ports."""
        for host, port, _ in self._listeners:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as slapd does: TIME_WAIT is no obstacle
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise DirectoryError(
                        f"Port LDAP {host}:{port} indisponible ({error.strerror}) : arrêter le programme qui l'occupe "
                        f"ou changer de port / LDAP port not available: stop the program holding it or choose another"
                    ) from error

    def start(self, timeout: float = 10.0) -> None:
        """Start slapd as a child and wait until it answers. Raises DirectoryError when it does not."""
        if self._process is not None and self._process.poll() is None:
            raise DirectoryError("slapd est déjà démarré / slapd is already running")
        command = self.command()
        self.check_ports()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the program, which then stops us in order
        )
        try:
            self.wait_ready(timeout)
        except DirectoryError:
            self.stop()
            raise

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Return once slapd answers and holds our suffix (whoever started it). Raises DirectoryError after `timeout`
        seconds.
        """
        deadline = time.monotonic() + timeout
        with contextlib.closing(Directory(self.url, base=self.base, timeout=1.0)) as directory:
            while True:
                try:
                    return directory.check()
                except DirectoryUnavailable as error:
                    if self._process is not None and self._process.poll() is not None:
                        raise DirectoryError(self._diagnosis(self._process.returncode)) from error
                    if time.monotonic() >= deadline:
                        raise DirectoryUnavailable(
                            f"slapd ne répond pas après {timeout:g} s sur {self.url} / slapd does not answer"
                        ) from error
                    time.sleep(0.02)  # a poll, bounded by the deadline

    def _diagnosis(self, code: int) -> str:
        """Why slapd ended at once: slapd says nothing with `-d 0`, its own test mode does."""
        test = [*prefix(self.folder), find_program("slapd"), "-T", "test", "-F", "slapd.d"]
        done = subprocess.run(test, capture_output=True, timeout=TOOL_SECONDS, check=False)
        said = first_lines(done.stderr)
        if done.returncode == 0:
            return (
                f"slapd s'est arrêté aussitôt (code {code}) ; sa configuration est pourtant bonne / slapd ended at once"
            )
        return (
            f"slapd ne démarre pas : configuration ou base de données endommagée dans {self.folder}. Restaurer une "
            f"sauvegarde (caducee directory restore) / slapd does not start, its data is damaged: restore a backup. "
            f"slapd : {said}"
        )

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the slapd we started (SIGTERM, then SIGKILL after `timeout` seconds); nothing when there is none."""
        process, self._process = self._process, None
        if process is not None:
            end(process, timeout)

    # -- this machine's operator ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def manager(self, path: str = SOCKET, timeout: float = 30.0) -> Iterator[Any]:
        """A raw connection over the Unix socket, as the local user that runs the operator: every right, no limit.

        Raises DirectoryUnavailable when no slapd listens there.
        """
        with contextlib.ExitStack() as stack:
            target = str(self.folder / path)
            if len(os.fsencode(target)) > _LONGEST_SOCKET:
                descriptor = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                target = f"/proc/self/fd/{descriptor}/{path}"
            connection = ldap.initialize(f"ldapi://{quote(target, safe='')}")
            try:
                connection.set_option(ldap.OPT_NETWORK_TIMEOUT, timeout)
                connection.set_option(ldap.OPT_TIMEOUT, timeout)
                connection.sasl_external_bind_s()
            except (ldap.SERVER_DOWN, ldap.TIMEOUT, ldap.CONNECT_ERROR) as error:
                raise DirectoryUnavailable(
                    "slapd ne tourne pas dans ce dossier / no slapd runs in this folder"
                ) from error
            stack.callback(_unbind, connection)
            yield connection

    def running(self) -> bool:
        """Whether a slapd (whoever started it) answers in this folder."""
        try:
            with self.manager(timeout=5.0):
                return True
        except DirectoryUnavailable:
            return False

    @contextlib.contextmanager
    def maintenance(self) -> Iterator[None]:
        """Hold the folder's lock: one load, restoration or import at a time. Raises DirectoryError when it is held."""
        descriptor = os.open(self.folder / "verrou", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryError(
                    "Un import ou une restauration est déjà en cours dans cet annuaire : attendre sa fin "
                    "/ an import or a restoration is already running here: wait for its end"
                ) from None
            yield
        finally:
            os.close(descriptor)


def end(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """End a child: SIGTERM, then SIGKILL after `timeout` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def socket_url(path: str) -> str:
    """The ldapi:// URL of a socket in slapd's folder; its own folder, `run`, is closed to other users."""
    return f"ldapi://{quote(path, safe='')}"


def _unbind(connection: Any) -> None:
    with contextlib.suppress(ldap.LDAPError):
        connection.unbind_ext_s()


def _tls_files(ldaps_port: int | None, certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is not None and key is not None:
        return certificate, key
    if certificate is None and key is None and ldaps_port is None:
        return None
    raise DirectoryError("LDAPS demande un certificat et sa clé / LDAPS needs both a certificate and its key")


def loopback_address(host: str) -> str:
    """`host` if it is a loopback address, else 127.0.0.1: clear-text LDAP is never offered to a network."""
    try:
        return host if ipaddress.ip_address(host).is_loopback else "127.0.0.1"
    except ValueError as error:
        raise DirectoryError(
            f"Adresse IP attendue pour l'annuaire, pas « {host} » / an IP address is expected"
        ) from error


def _url(host: str, port: int, scheme: str) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
