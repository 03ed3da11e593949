"""The listening sockets of SMTP: opened once by the supervisor, inherited by every process that serves them.

Invariants: a connection that waits is nobody's until it is accepted: the death of one process loses none of them, the others or
its successor take them; a process started by hand opens its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from caducee.settings import Settings

SOCKETS = "CADUCEE_SOCKETS"
"""Variable that names the descriptors a process inherits: `reception=7,8 submission=9`."""
SMTP_PORTS = ("reception", "submission", "submissions")
_BACKLOG = 1024

Sockets = Mapping[str, Sequence[socket.socket]]
"""Listening sockets by key of [listen]."""


def open_sockets(settings: Settings) -> Sockets:
    """The sockets of SMTP that the settings ask for. Raises OSError when a port cannot be had."""
    listen, made = settings.listen, dict[str, list[socket.socket]]()
    try:
        for key in SMTP_PORTS:
            if port := getattr(listen, key):
                found = socket.getaddrinfo(listen.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                for family, _, _, _, address in dict.fromkeys(found):
                    one = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
                    made.setdefault(key, []).append(one)
    except BaseException:
        close_sockets(made)
        raise
    return made


def close_sockets(sockets: Sockets) -> None:
    """Close them here; other processes keep theirs."""
    for one in (one for group in sockets.values() for one in group):
        one.close()


def as_variable(sockets: Sockets) -> str:
    """What tells a child of the descriptors that it inherits."""
    return " ".join(f"{key}={','.join(str(one.fileno()) for one in group)}" for key, group in sockets.items())


def inherited_sockets() -> Sockets:
    """The sockets that this process inherited, once; none when it was started by hand. Its own children have none."""
    words = (word.partition("=") for word in os.environ.pop(SOCKETS, "").split())
    found = {key: [socket.socket(fileno=int(one)) for one in numbers.split(",")] for key, _, numbers in words}
    for one in (one for group in found.values() for one in group):
        one.set_inheritable(False)
    return found
