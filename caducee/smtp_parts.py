"""Puts the SMTP room together for one operator: limits and rules of the settings, TLS, tokens, DKIM keys, sender."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta

from caducee.bearer import ProviderUnavailable
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.sections import PROCESSES_LIMIT
from caducee.settings import Settings
from caducee.sharing import share, smtp_processes, worker_name
from caducee.sockets import Sockets
from smtp import (
    AskingContext,
    Carrier,
    Checker,
    DecidingContext,
    DkimKeyError,
    DomainRouter,
    Kind,
    Limits,
    Listen,
    Rules,
    Sender,
    SenderSettings,
    Services,
    Signer,
    SigningKey,
    load_key,
)
from trustspace.reloading import OwnCertificate, ReloadingContext

BEARER_AWAY: tuple[type[Exception], ...] = (ProviderUnavailable,)


def limits(settings: Settings, number: int) -> Limits:
    """The bounds of the listeners of process `number`: its share of the whole, but one of each at least."""
    section, processes = settings.smtp, smtp_processes(settings)

    def of(whole: int) -> int:
        return max(1, share(whole, processes, number))

    return Limits(
        size=settings.limits.message_mib * 1024 * 1024,
        recipients=settings.limits.recipients,
        connections=of(section.connections),
        connections_per_address=of(section.connections_per_address),
        memory=of(section.memory_mib) * 1024 * 1024,
        peer_connections=of(section.peer_connections),
        peer_messages=of(section.peer_messages_per_minute),
    )


def rules(settings: Settings) -> Rules:
    """What messages must be, and how long receipts may take."""
    section = settings.smtp
    return Rules(
        patient_domains=frozenset(section.patient_domains),
        patient_size=section.patient_mib * 1024 * 1024,
        nil=section.nil,
        receipt_deadline=timedelta(days=section.receipt_days),
    )


def listens(settings: Settings, own: OwnCertificate, sockets: Sockets) -> list[Listen]:
    """The SMTP listeners, on the inherited `sockets` where there are. The certificate is read again when its files change;
    the peer's is judged after the handshake."""
    tls = ReloadingContext.following(lambda: DecidingContext.build(own.chain, own.key), own.stamp)
    try:
        balancers = tuple(ipaddress.ip_network(text) for text in settings.smtp.balancers)
    except ValueError as error:
        raise UsageError(f"smtp.balancers: {error}") from None
    listen = settings.listen
    return [
        Listen(kind, listen.host, port, tls, balancers, sockets=sockets.get(key, ()))
        for kind, key, port in (
            (Kind.RECEPTION, "reception", listen.reception),
            (Kind.SUBMISSION, "submission", listen.submission),
            (Kind.SUBMISSION_TLS, "submissions", listen.submissions),
        )
        if port
    ]


def dkim_keys(folder: OperatorFolder) -> Sequence[SigningKey]:
    """The active signing keys: keys/dkim/<domain>/<selector>.pem. A key put there signs at once, one removed no longer.

    Raises UsageError for a file that is no usable key.
    """
    try:
        return [load_key(path, path.stem, path.parent.name) for path in sorted((folder.keys / "dkim").glob("*/*.pem"))]
    except DkimKeyError as error:
        raise UsageError(str(error)) from None


def dkim_signer(folder: OperatorFolder) -> Signer:
    """Signs with the keys of the folder, looked at again when a file comes, goes or changes."""
    seen: dict[str, object] = {"stamp": None, "keys": ()}

    def keys() -> Sequence[SigningKey]:
        stamp = tuple((str(path), path.stat().st_mtime_ns) for path in sorted((folder.keys / "dkim").glob("*/*.pem")))
        if stamp != seen["stamp"]:
            seen["keys"], seen["stamp"] = tuple(dkim_keys(folder)), stamp
        found = seen["keys"]
        return found if isinstance(found, tuple) else ()

    return Signer(keys)


def dkim_checker(settings: Settings) -> Checker:
    """Verifies with the records of the settings, else of DNS."""
    return Checker(settings.smtp.dkim_records)


def carrier(settings: Settings, services: Services, own: OwnCertificate) -> Carrier:
    """Opens connections to other operators, as the sender and `tls probe` do."""
    tls = ReloadingContext.following(lambda: AskingContext.build(own.chain, own.key), own.stamp)
    return Carrier(services, DomainRouter(settings.routes), tls)


def senders(settings: Settings) -> int:
    """How many processes send: not more than there may be connections to one operator."""
    return min(smtp_processes(settings), settings.smtp.connections_out)


def owner(settings: Settings, number: int) -> str:
    """The name in leases of the sender of process `number`: one process bears it, whose former self is dead."""
    return worker_name(settings, "mail" if number == 1 else f"mail-{number}")


def owners(settings: Settings, number: int) -> list[str]:
    """The names whose leases process `number` ends when it starts: its own and, for the first, those of processes that the
    settings no longer ask for."""
    gone = range(smtp_processes(settings) + 1, PROCESSES_LIMIT + 1) if number == 1 else ()
    return [owner(settings, one) for one in (number, *gone)]


def sender(settings: Settings, services: Services, own: OwnCertificate, number: int) -> Sender:
    """The queue's worker of process `number`, at most `senders`."""
    return Sender(
        services,
        carrier(settings, services, own),
        owner=owner(settings, number),
        settings=SenderSettings(
            connections=share(settings.smtp.connections_out, senders(settings), number),
            first_retry=timedelta(seconds=settings.limits.retry_seconds),
            tell_delay=timedelta(hours=settings.smtp.delay_hours),
            give_up=timedelta(hours=settings.limits.queue_hours),
            tells_silences=number == 1,
        ),
    )
