"""slapd as a private child process: its folder, its start, its end.

Invariants
* The data (`data/`) is the truth; cn=config (`slapd.d/`) is derived from the code and rebuilt at each start, so an
  upgrade or a new certificate needs no migration of it.
* slapd never runs as root: started by root it becomes `openldap` (or `nobody`); it cannot gain privileges back.
* slapd dies with the process that started it (PR_SET_PDEATHSIG), and leaves its data whole when killed (LMDB).
* Clear-text LDAP is offered on the loopback interface only.
* slapd is started *inside* its folder with relative paths only. Folder names may hold spaces, and parent folders
  that the unprivileged user may not cross (a home folder, a 0700 temporary folder) do not matter: root enters, then
  steps down.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from directory.client import Directory
from directory.configuration import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Limits,
    admin_dn,
    configuration_ldif,
    find_program,
    hash_password,
)
from directory.entry import BASE, Entry, skeleton_ldif, to_ldif
from directory.errors import DirectoryError, DirectoryUnavailable

_USERS: Final = ("openldap", "nobody")
_TOOL_SECONDS: Final = 600
_OPEN_FILES: Final = 4096  # slapd allocates a table of that many connections: an "unlimited" limit costs it gigabytes


class Slapd:
    """A private slapd in `folder`, listening on `ldap://127.0.0.1:ldap_port` and, with a certificate,
    `ldaps://host:ldaps_port`.

    `certificate` is a PEM chain, leaf first; `key` its PEM private key, without a passphrase. Clients should connect
    to an IP address that the certificate names (libldap replaces `localhost` by the machine's name before it compares).
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
    ) -> None:
        self.folder = folder.resolve()
        self.base = base
        self._limits = limits or Limits()
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
        """The DN that may write; its password is the one given to `initialise`."""
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

    def initialise(self, entries: Iterable[Entry], admin_password: str) -> None:
        """Build configuration and data in the folder; what an interrupted attempt left is made anew.

        Raises DirectoryError when the folder is already initialised, an entry is refused (two entries with one address
        included), or slapd's tools are missing or fail.
        """
        if self.initialised:
            raise DirectoryError(
                f"L'annuaire est déjà initialisé, effacer ce dossier pour recommencer : {self.folder} "
                "/ directory already initialised: delete this folder to begin again"
            )
        password_hash = hash_password(admin_password)
        text = skeleton_ldif(self.base) + to_ldif(entries)
        self._make_folder()
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        self._build_configuration(password_hash)
        self._own()
        self._tool(["slapadd", "-q", "-F", "slapd.d", "-n", "1"], text, "les données / the data")
        _write_private(self._hash_file, password_hash)  # last: its presence is what says "initialised"

    def prepare(self) -> None:
        """Rebuild cn=config from the stored password hash and put the TLS files in place. Needs an initialised
        folder.
        """
        if not self.initialised:
            raise DirectoryError(
                f"L'annuaire n'est pas initialisé : {self.folder} / the directory is not initialised (call initialise)"
            )
        self._make_folder()
        self._build_configuration(self._hash_file.read_text("ascii").strip())
        self._own()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The folder stays root's: slapd may enter it, but neither rename its parts nor read the password hash's
            # file.
            self.folder.chmod(0o700 if _account() is None else 0o711)
        except OSError as error:
            raise DirectoryError(f"Dossier de l'annuaire inutilisable : {self.folder} ({error.strerror})") from error

    def _build_configuration(self, password_hash: str) -> None:
        self._install_tls()
        text = configuration_ldif(
            password_hash=password_hash, base=self.base, tls=self._tls is not None, limits=self._limits
        )
        fresh = self.folder / "slapd.d.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._own()
        self._tool(["slapadd", "-F", "slapd.d.new", "-n", "0"], text, "la configuration / the configuration")
        shutil.rmtree(self.folder / "slapd.d", ignore_errors=True)
        fresh.rename(self.folder / "slapd.d")

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
            _write_private(self.folder / target, content)

    def _own(self) -> None:
        """Give slapd's user the parts it reads and writes (only root needs to, only root can)."""
        account = _account()
        if account is None:
            return
        for part in ("data", "slapd.d", "slapd.d.new", "tls"):
            for root, folders, files in os.walk(self.folder / part):
                for name in (".", *folders, *files):
                    os.chown(Path(root) / name, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _tool(self, command: Sequence[str], stdin: str, what: str) -> None:
        done = subprocess.run(
            [*self._prefix(), find_program(command[0]), *command[1:]],
            input=stdin.encode(),
            capture_output=True,
            timeout=_TOOL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DirectoryError(f"{command[0]} refuse {what} : {_first_lines(done.stderr)}")

    # -- running -----------------------------------------------------------------------------------------------------

    def _prefix(self) -> list[str]:
        """Enter the folder, then drop every privilege, then exec: one process id from beginning to end."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        drop: list[str] = []
        account = _account()
        if account is not None:
            drop = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return [
            find_program("env"),
            f"--chdir={self.folder}",
            find_program("prlimit"),
            f"--nofile={files}:{files}",
            find_program("setpriv"),
            *drop,
            "--no-new-privs",
            "--pdeathsig=TERM",
        ]

    def command(self) -> list[str]:
        """Argument list of the foreground slapd, for a supervisor; calls `prepare` first.

        The process keeps one pid, ends on SIGTERM or SIGINT, writes nothing, and gets SIGTERM when the *thread* that
        started it ends (that is how PR_SET_PDEATHSIG works): start it from a thread that lives as long as the program,
        after `check_ports` (a slapd that finds its port taken ends at once, silently). Raises DirectoryError.
        """
        self.prepare()
        listeners = " ".join(_url(*listener) for listener in self._listeners)
        return [*self._prefix(), find_program("slapd"), "-d", "0", "-F", "slapd.d", "-h", listeners]

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
        test = [*self._prefix(), find_program("slapd"), "-T", "test", "-F", "slapd.d"]
        done = subprocess.run(test, capture_output=True, timeout=_TOOL_SECONDS, check=False)
        said = _first_lines(done.stderr)
        if done.returncode == 0:
            return (
                f"slapd s'est arrêté aussitôt (code {code}) ; sa configuration est pourtant bonne / slapd ended at once"
            )
        return (
            f"slapd ne démarre pas : configuration ou base de données endommagée dans {self.folder}. Restaurer la "
            f"sauvegarde de ce dossier, ou l'effacer et réinitialiser l'annuaire / slapd does not start, its data is "
            f"damaged: restore this folder from backup, or delete it and initialise again. slapd : {said}"
        )

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the slapd we started (SIGTERM, then SIGKILL after `timeout` seconds); nothing when there is none."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _account() -> pwd.struct_passwd | None:
    """The unprivileged account to become; None when we are not root and stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DirectoryError(
        "Lancé par root sans compte « openldap » ni « nobody » : créer l'un des deux "
        "/ run as root without an openldap or nobody account: create one of them"
    )


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


def _first_lines(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[:4])[:600] or "(rien / nothing)"


def _write_private(path: Path, content: str) -> None:
    """Write a 0600 file atomically and durably: readers see the old content or the whole new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123  (a descriptor, not a path)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
