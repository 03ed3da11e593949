"""The folder of a private slapd: its configuration, data folders, TLS files; how they are made, filled, upgraded.

Invariants
* The data (`data-N/`) is the truth; cn=config (`slapd.d/`) is derived from the code and rebuilt at each start, so an
  upgrade or a new certificate needs no migration of it; data made by an older version is upgraded before it is served.
* Which `data-N` is served is one line of cn=config, changed by slapd itself: a load is never half visible (`loading`).
* Nothing here needs a running slapd, and only `loading` works beside one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

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
from directory.errors import DirectoryError
from directory.generations import FORMAT, FORMAT_FILE, Generations
from directory.rights import admin_dn, service_entries
from directory.tools import account, own, run_tool, write_private

_OWNED: Final = ("run", "journal", "slapd.d", "slapd.d.new", "tls")
ClientTrust = Callable[[], tuple[bytes, bytes]]
"""Gives, as PEM, the authorities whose client certificates may bind and their lists of revocations."""


class Installation:
    """What is on disk of the slapd in `folder`; see `server.Slapd` for the arguments."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        base: str = BASE,
        limits: Limits | None = None,
        domains: Sequence[str] = (),
        client_trust: ClientTrust | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.base = base
        self.domains = tuple(domains)
        self.generations = Generations(self.folder)
        self._limits = limits or Limits()
        self._client_trust = client_trust
        self._tls = tls

    @property
    def admin_dn(self) -> str:
        """The rootdn; its password is the one given to `initialise`."""
        return admin_dn(self.base)

    @property
    def initialised(self) -> bool:
        """Whether `initialise` has run to its end in this folder."""
        return self._hash_file.is_file()

    @property
    def _hash_file(self) -> Path:
        return self.folder / "operateur.hash"

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

    def copy(self, name: str) -> None:
        """Fill the new data folder `name` with the served data as it is at one moment, while slapd serves and writes.

        mdb_copy reads in one LMDB transaction, of the disk's pages: the indexes come with the entries. Raises DirectoryError.
        """
        served = self.generations.current()
        own(self.folder, [name])
        run_tool(self.folder, ["mdb_copy", served, name], [], "la copie / the copy")
        write_private(self.folder / name / FORMAT_FILE, str(self.generations.format(served)).encode())

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
        for left in (self.folder / "run").iterdir():  # sockets, and folders of the databases of another configuration
            shutil.rmtree(left) if left.is_dir() else left.unlink()
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

    def configure(self, target: str, data: str, password_hash: str = "", *, aside: bool = False) -> None:
        """Make a cn=config folder `target` for the data folder `data` (`aside`: see `Configuration`)."""
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
            aside=aside,
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
        self.install_trust()

    def install_trust(self) -> bool:
        """Put in place the authorities of client certificates and their lists; True when something is new there."""
        changed = False
        trust = self._client_trust() if self._client_trust else (b"", b"")
        for target, pem in zip((AUTHORITIES_FILE, CRL_FILE), trust, strict=True):
            path = self.folder / target
            if pem == (path.read_bytes() if path.is_file() else b""):
                continue
            changed = True
            if pem:
                write_private(path, pem)
            else:
                path.unlink()
        own(self.folder, ["tls"])
        return changed
