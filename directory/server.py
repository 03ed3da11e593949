"""slapd as a private child process: its start, its end, and the connection of the local user that runs the operator.

Invariants
* slapd never runs as root, and dies with the process that started it (see `tools`); killed, it leaves its data whole
  (LMDB).
* Clear-text LDAP is offered on the loopback interface and on a Unix socket of slapd's user only.
* What it serves and how is made by `installation`.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import ldap

from directory.client import Directory
from directory.configuration import AUTHORITIES_FILE, CRL_FILE, Limits, client_trust
from directory.entry import BASE
from directory.errors import DirectoryError, DirectoryUnavailable
from directory.installation import ClientTrust, Installation
from directory.tools import TOOL_SECONDS, find_program, first_lines, prefix

SOCKET: Final = "run/ldapi"
_LONGEST_SOCKET: Final = 100  # sun_path holds 108 bytes


class Slapd(Installation):
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
        client_trust: ClientTrust | None = None,
    ) -> None:
        tls = _tls_files(ldaps_port, certificate, key)
        super().__init__(folder, tls=tls, base=base, limits=limits, domains=domains, client_trust=client_trust)
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
    def pid(self) -> int | None:
        """Process id of the slapd started by `start`, if any."""
        return self._process.pid if self._process else None

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

    def reload_trust(self) -> bool:
        """Read authorities and revocations of client certificates again; True when there was something new.

        slapd makes its TLS context anew when its configuration says so: connections stay, later ones meet the new lists.
        Raises DirectoryUnavailable, DirectoryError.
        """
        if self._tls is None or not self.install_trust():
            return False
        present = [(self.folder / name).is_file() for name in (AUTHORITIES_FILE, CRL_FILE)]
        changes = [
            (ldap.MOD_REPLACE, name, [value.encode()] if value else None)
            for name, value in client_trust(*present).items()
        ]
        with self.manager() as connection:
            try:
                connection.modify_s("cn=config", changes)
            except ldap.LDAPError as error:
                raise DirectoryError(
                    f"slapd refuse les autorités des cartes ({type(error).__name__}) / slapd refuses the cards' authorities"
                ) from error
        return True

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
