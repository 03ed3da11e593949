"""Looking at the ports before starting: a taken one is named by its key, which no later error can do as well."""

from __future__ import annotations

import errno
import os
import socket
import time

from caducee.errors import UsageError
from caducee.settings import Settings, used_ports
from directory import loopback_address

_PATIENCE_SECONDS = 5.0


def check_ports(settings: Settings) -> None:
    """Wait a moment for each wanted port to be free (a former run may be ending). Raises UsageError naming key and port."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for key, port in used_ports(settings).items():
        host = loopback_address(settings.listen.host) if key == "ldap" else settings.listen.host
        while error := _refusal(host, port):
            if error != errno.EADDRINUSE or time.monotonic() > deadline:
                raise UsageError(f"listen.{key}: {host}:{port}: {_reason(error)}")
            time.sleep(0.1)


def _refusal(host: str, port: int) -> int:
    """0 when the port can be bound now, else the errno."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def _reason(error: int) -> str:
    if error == errno.EADDRINUSE:
        return "port déjà pris par un autre programme ; en choisir un autre / port taken by another program; choose another"
    if error == errno.EACCES:
        return "port réservé : le choisir au-dessus de 1024, ou donner CAP_NET_BIND_SERVICE / privileged port"
    return os.strerror(error)
