"""`caducee tls probe`: would a message for this domain leave, and if not, which rule stops it?"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from caducee import smtp_parts
from caducee.commands.common import FolderOption, JsonOption, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.trust_parts import open_trust, own_certificate
from caducee.wiring import make_protector, now, open_directory, open_store
from mailstore import Account, NewDeposit
from smtp import Carrier, ClientError, NoRoute, Services, SmtpClient
from smtp.delivery import Unreachable
from trustspace import Usage

app = typer.Typer(
    no_args_is_help=True, help="Les liaisons chiffrées avec les autres opérateurs / TLS with other operators."
)


@app.callback()
def group() -> None:
    """Keeps `probe` a command of its own."""


@app.command()
def probe(
    domain: Annotated[str, typer.Argument(help="Domaine de messagerie à joindre / mail domain to reach.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Joint un domaine comme l'expéditeur le ferait, et dit chaque décision / reach a domain as the sender would.

    Rien n'est envoyé que EHLO et STARTTLS. Code 0 : un message partirait ; 1 : non.
    """
    place, settings = OperatorFolder(folder), load_settings(folder)
    trust, own = open_trust(place, settings), own_certificate(place)
    store, directory = open_store(place, settings), open_directory(place, settings)
    services = Services(
        store=store,
        trust=trust,
        protector=make_protector(store, directory, trust, settings),
        planner=_NothingPlanned(),
        clock=now,
        hostname=settings.operator.hostname,
        local_domains=frozenset(settings.operator.domains),
    )
    rows, good = asyncio.run(_probe(smtp_parts.carrier(settings, services, own), domain.strip().lower()))
    show(rows, as_json=as_json, title=domain)
    if not good:
        raise typer.Exit(1)


class _NothingPlanned:
    """A probe accepts no message: nothing is ever planned."""

    def labels(self, clear: bytes) -> Mapping[str, str]:
        return {}

    def plan(
        self, clear: bytes, *, sender: Account, at: datetime, original: Callable[[], bytes] = bytes
    ) -> tuple[NewDeposit, ...]:
        return ()

    def searches(self, recipient: Account) -> bool:
        return False

    def plan_received(
        self,
        clear: bytes,
        *,
        recipient: Account,
        at: datetime,
        mail_from: str = "",
        original: Callable[[], bytes] = bytes,
    ) -> tuple[NewDeposit, ...]:
        return ()


async def _probe(carrier: Carrier, domain: str) -> tuple[list[dict[str, str]], bool]:
    try:
        routes = await carrier.router.routes(domain)
    except NoRoute as error:
        raise UsageError(f"{domain}: {error}") from None
    rows = [{"étape": "route", "résultat": ", ".join(f"{one.host}:{one.port}" for one in routes)}]
    try:
        peer = await carrier.open(domain)
    except Unreachable as error:
        rows += [{"étape": key, "résultat": value} for key, value in error.detail.items()]
        rows.append({"étape": "refus / refusal", "résultat": str(error.answer)})
        if "rule" not in error.detail:
            rows += await _seen(carrier, domain, routes[0].host, routes[0].port)
        return rows, False
    rows += [{"étape": key, "résultat": value} for key, value in peer.evidence.items()]
    rows.append({"étape": "EHLO", "résultat": " ".join(sorted(peer.client.capabilities))})
    await peer.client.quit()
    return rows, True


async def _seen(carrier: Carrier, domain: str, host: str, port: int) -> list[dict[str, str]]:
    """When the handshake itself fails: the certificate shown, and what the trust space says of it. Nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        client = await SmtpClient.connect(host, port, hostname=carrier.services.hostname, patience=carrier.patience)
        try:
            await client.starttls(context, server_hostname=host)
            certificate = client.peer_certificate
        finally:
            client.close()
    except ClientError:
        return []
    if certificate is None:
        return []
    decision = await asyncio.to_thread(
        carrier.services.trust.authorise, certificate, domain, now(), usage=Usage.TLS_SERVER
    )
    return [
        {"étape": "dn", "résultat": certificate.subject.rfc4514_string()},
        {"étape": "validité / validity", "résultat": f"{certificate.not_valid_after_utc:%d/%m/%Y}"},
        {"étape": "rule", "résultat": decision.rule},
        {"étape": "raison / reason", "résultat": f"{decision.reason_fr} / {decision.reason_en}"},
    ]
