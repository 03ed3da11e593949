"""A virtual reader: pcscd of our own with the vpcd driver, and the TCP protocol that puts a practice card in it.

pcscd's socket has one fixed place and the driver listens on every address, so both run in mount and network namespaces of
their own: that place is a folder of ours (clients find it by PCSCLITE_CSOCK_NAME), and practice cards connect from a
thread that entered the network namespace. Needs root, pcscd and vsmartcard-vpcd: `missing()` says what is not there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from caducee.demo.practice_card import Hang, PracticeCard, Removed

DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_PORT = 0x8C7B
_QUICK = getattr(socket, "TCP_QUICKACK", None)


def missing() -> str:
    """Why virtual readers cannot run here, "" when they can."""
    if not shutil.which("pcscd") or not DRIVER.exists():
        return "pcscd et vsmartcard-vpcd ne sont pas installés / are not installed"
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return "les espaces de noms demandent d'être root / namespaces need root"
    probe = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "espaces de noms interdits ici / namespaces are not allowed here"


class Slot:
    """One slot of the virtual reader: an inserted card is a connection to the driver."""

    def __init__(self, daemon: Pcscd, port: int) -> None:
        self.port = port
        self.card: PracticeCard | None = None
        self._daemon = daemon
        self._connection: socket.socket | None = None
        self._released = threading.Event()

    def insert(self, card: PracticeCard) -> None:
        """Put a card in."""
        self.card = card
        card.reset()
        self._released = threading.Event()
        self._connection = self._daemon.connect(self.port)
        threading.Thread(target=self._serve, args=(self._connection, card), daemon=True).start()

    def remove(self) -> None:
        """Pull the card out."""
        self._released.set()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
        self._connection = self.card = None

    def _serve(self, connection: socket.socket, card: PracticeCard) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError, EOFError):
            self._talk(connection, card)

    def _talk(self, connection: socket.socket, card: PracticeCard) -> None:
        while True:
            size = int.from_bytes(_exactly(connection, 2), "big")
            message = _exactly(connection, size)
            if size == 1:
                if message[0] in (0, 1, 2):
                    card.reset()
                    continue
                answer = card.atr
            else:
                try:
                    answer = card.transmit(message)
                except Removed:  # the connection is closed: the card is gone
                    raise EOFError from None
                except Hang:
                    self._released.wait()
                    raise EOFError from None
            connection.sendall(len(answer).to_bytes(2, "big") + answer)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if _QUICK is not None:  # the driver writes length and payload apart: 40 ms each without this
            connection.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class Pcscd:
    """pcscd in namespaces of its own, with one reader of two slots. `slots[i].insert(card)` puts a card in a reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "pcscd.comm"
        # One driver has two slots, on a port and the next one; a second driver would share their state.
        self.slots = [Slot(self, _PORT), Slot(self, _PORT + 1)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it serves."""
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        config = self.folder / "reader.conf.d"
        config.mkdir(exist_ok=True)
        (config / "vpcd").write_text(
            f'FRIENDLYNAME "Virtual"\nDEVICENAME /dev/null:{_PORT:#x}\nLIBPATH {DRIVER}\nCHANNELID {_PORT:#x}\n'
        )
        script = (
            'mkdir -p /run/pcscd && mount --make-rprivate / && mount --bind "$1" /run/pcscd && shift && exec pcscd "$@"'
        )
        with (self.folder / "pcscd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # However this program ends, pcscd is stopped.
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    "unshare",
                    "-m",
                    "-n",
                    "sh",
                    "-c",
                    script,
                    "sh",
                    self.socket.parent,
                    "--foreground",
                    "--config",
                    config,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 15
        while not self.socket.exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "pcscd.log").read_text("utf-8", "replace")[-2000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """Pull the cards out and stop."""
        for slot in self.slots:
            slot.remove()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """What a client program needs to find this pcscd."""
        return {**os.environ, "PCSCLITE_CSOCK_NAME": os.fspath(self.socket)}

    def connect(self, port: int) -> socket.socket:
        """A connection to a port inside the namespace."""
        assert self._process is not None  # noqa: S101 - started
        found: list[socket.socket | OSError] = []
        thread = threading.Thread(target=_connect_inside, args=(self._process.pid, port, found))
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]


def _connect_inside(pid: int, port: int, found: list[socket.socket | OSError]) -> None:
    """In a thread of its own, which enters the network namespace of `pid`: a socket stays where it was made."""
    try:
        with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        deadline = time.monotonic() + 10
        while True:
            connection = socket.socket()
            _loopback_up(connection)
            try:
                connection.connect(("127.0.0.1", port))
                break
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        found.append(connection)
    except OSError as error:
        found.append(error)


def _loopback_up(any_socket: socket.socket) -> None:
    """`ip link set lo up`, without that program (SIOCSIFFLAGS, IFF_UP | IFF_RUNNING)."""
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
