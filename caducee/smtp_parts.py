"""Puts the SMTP room together for one operator: limits and rules of the settings, TLS, tokens, DKIM keys, sender."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta

from caducee.bearer import ProviderUnavailable
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import Settings
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


def limits(settings: Settings) -> Limits:
    """The bounds of the listeners."""
    section = settings.smtp
    return Limits(
        size=settings.limits.message_mib * 1024 * 1024,
        recipients=settings.limits.recipients,
        connections=section.connections,
        connections_per_address=section.connections_per_address,
        memory=section.memory_mib * 1024 * 1024,
        peer_connections=section.peer_connections,
        peer_messages=section.peer_messages_per_minute,
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


def listens(settings: Settings, own: OwnCertificate) -> list[Listen]:
    """The SMTP listeners. The certificate is read again when its files change; the peer's is judged after the handshake."""
    tls = ReloadingContext.following(lambda: DecidingContext.build(own.chain, own.key), own.stamp)
    try:
        balancers = tuple(ipaddress.ip_network(text) for text in settings.smtp.balancers)
    except ValueError as error:
        raise UsageError(f"smtp.balancers: {error}") from None
    listen = settings.listen
    return [
        Listen(kind, listen.host, port, tls, balancers)
        for kind, port in (
            (Kind.RECEPTION, listen.reception),
            (Kind.SUBMISSION, listen.submission),
            (Kind.SUBMISSION_TLS, listen.submissions),
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


def sender(settings: Settings, services: Services, own: OwnCertificate, owner: str) -> Sender:
    """The queue's worker."""
    return Sender(
        services,
        carrier(settings, services, own),
        owner=owner,
        settings=SenderSettings(
            connections=settings.smtp.connections_out,
            first_retry=timedelta(seconds=settings.limits.retry_seconds),
            tell_delay=timedelta(hours=settings.smtp.delay_hours),
            give_up=timedelta(hours=settings.limits.queue_hours),
        ),
    )
