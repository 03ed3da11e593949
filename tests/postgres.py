"""A private PostgreSQL for the test run: its own data, its own port on loopback, stopped by its own pid.

Debian keeps the programs under /usr/lib/postgresql/<version>/bin; PostgreSQL refuses to run as root, so that root's test
run starts it as an unprivileged user. What a test may lose in a power cut does not matter here: fsync is off.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

PROGRAMS = Path("/usr/lib/postgresql")
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
}


def programs() -> Path | None:
    """Where initdb and postgres are, or None when PostgreSQL is not installed."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class PrivatePostgres:
    """One server. `database()` gives the URL of an empty database, or of a copy of another one."""

    def __init__(self, bin_folder: Path) -> None:
        self._user = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="caducee-pg-", dir="/tmp"))
        data = self._folder / "data"
        data.mkdir(mode=0o700)
        if self._user is not None:
            for path in (self._folder, data):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._run([str(bin_folder / "initdb"), "-D", str(data), "-U", "caducee", "-A", "trust", "-E", "UTF8", "-N"])
        self.port = _free_port()
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [str(bin_folder / "postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self._folder), *options],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            **self._identity(),
        )
        self._wait()

    def database(self, template: str = "template0") -> str:
        """The SQLAlchemy URL of a new database; `template` is the name of the one it is a copy of."""
        name = f"t{secrets.token_hex(6)}"
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return self.url(name)

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://caducee@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        with self._connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def stop(self) -> None:
        """End the server and remove its files."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="caducee", dbname="postgres", autocommit=True, connect_timeout=5
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._identity())

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name: one for one in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _free_port() -> int:
    with socket.socket() as probe:
        for port in range(25000 + secrets.randbelow(2000), 32000):
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")
