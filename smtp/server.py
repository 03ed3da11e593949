"""The listeners: reception (25), submission with STARTTLS (587) and with implicit TLS (465).

Invariants: a listener never starts without its TLS context; `stop` lets commands under way finish within a time, then
cuts; the ports really bound are known (bind to 0 in tests).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from smtp.gate import Gate
from smtp.listening import Listener, bound
from smtp.reception import Reception
from smtp.services import Services
from smtp.session import Handler, Setting
from smtp.shell import Shell
from smtp.submission import Submission


class Kind(StrEnum):
    """What a listener is for."""

    RECEPTION = "reception"
    SUBMISSION = "submission"
    SUBMISSION_TLS = "submission-tls"


@dataclass(frozen=True, slots=True)
class Listen:
    """One listener. `tls` must ask for a client certificate for reception (and for AUTH EXTERNAL), and leave its judgement
    to us (`handshake.DecidingContext`). `balancers` are believed when they send a PROXY header, which they then must.
    `sockets` listen already, shared with other processes perhaps, and are its own; without any, it binds `host` and `port`.
    `require_tls` is False in measurements only."""

    kind: Kind
    host: str
    port: int
    tls: ssl.SSLContext | None
    balancers: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    require_tls: bool = True
    sockets: Sequence[socket.socket] = ()


class SmtpServers:
    """The SMTP listeners of one process."""

    def __init__(self, services: Services, listens: list[Listen], *, grace: float = 10.0) -> None:
        """`grace`: seconds given to commands under way when stopping."""
        self._services = services
        self._listens = listens
        self._grace = grace
        self._listeners: list[Listener] = []
        self._gates: list[Gate] = []
        self.ports: dict[Kind, int] = {}
        self._reception = Reception(services)
        self._submission = Submission(services)

    async def start(self) -> None:
        """Bind and listen. Raises OSError when a port cannot be bound; nothing then listens."""
        try:
            for listen in self._listens:
                sockets = listen.sockets or await asyncio.to_thread(bound, listen.host, listen.port)
                gate = Gate(self._services.limits, listen.kind.value)
                listener = Listener(sockets, partial(Shell, self._setting(listen, gate)))
                self._listeners.append(listener)
                self._gates.append(gate)
                self.ports[listen.kind] = listener.port
        except BaseException:
            await self.stop()
            raise

    def _setting(self, listen: Listen, gate: Gate) -> Setting:
        handler: Handler = self._reception if listen.kind is Kind.RECEPTION else self._submission
        return Setting(
            handler,
            hostname=self._services.hostname,
            domain=min(self._services.local_domains, default=""),
            limits=self._services.limits,
            gate=gate,
            store=self._services.store,
            tls=listen.tls,
            implicit=listen.kind is Kind.SUBMISSION_TLS,
            require_tls=listen.require_tls,
            balancers=listen.balancers,
        )

    async def stop(self) -> None:
        """Stop listening, let commands under way finish, close."""
        for listener in self._listeners:
            listener.close()
        for gate in self._gates:
            gate.closing = True
            for shell in list(gate.open):
                if not shell.busy:
                    shell.abandon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                for gate in self._gates:
                    await gate.empty.wait()
        for gate in self._gates:
            for shell in list(gate.open):
                shell.abandon()
        self._listeners.clear()
