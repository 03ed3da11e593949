"""`caducee demo`: the whole journey on this machine, shown as it happens."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from caducee.commands.common import JsonOption, console, plain_text
from caducee.demo.country import Country, all_settings, cast, create_country
from caducee.demo.running import Running
from caducee.demo.scenario import Scenario, Step
from caducee.errors import UsageError
from caducee.ports import check_ports
from caducee.wiring import now
from directory import people


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", "-d", help="Dossier de la démonstration / the demo's folder.")
    ] = Path(".demo"),
    stay: Annotated[
        bool, typer.Option("--stay", help="Laisse tout tourner, dit comment se connecter / keep running.")
    ] = False,
    base_port: Annotated[
        int, typer.Option(help="Premier port ; trois mille suivants / first port.", min=20000, max=60000)
    ] = 20000,
    as_json: JsonOption = False,
) -> None:
    """Deux opérateurs, l'annuaire et le dossier patient ; un compte rendu voyage / a report travels, for real."""
    raise typer.Exit(asyncio.run(_demo(folder.resolve(), stay, base_port, as_json)))


async def _demo(folder: Path, stay: bool, base_port: int, as_json: bool) -> int:
    for settings in all_settings(base_port).values():
        try:
            check_ports(settings)
        except UsageError as error:
            raise UsageError(
                f"{error}\nLa démonstration peut être déplacée / the demo can be moved: --base-port"
            ) from None
    screen = Console(highlight=False, stderr=True) if as_json else console
    begin = time.perf_counter()
    with screen.status("Création de l'espace de confiance d'exercice et de deux opérateurs…"):
        country = await asyncio.to_thread(create_country, folder, at=now(), base_port=base_port)
    screen.print(
        f"[green]✓[/green] espace de confiance, annuaire, deux opérateurs créés dans {folder} ({_since(begin)})"
    )
    begin = time.perf_counter()
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        mark = "[yellow]–[/yellow]" if step.skipped else "[green]✓[/green]" if step.ok else "[red]✗[/red]"
        screen.print(f"{mark} {step.name} [dim]({step.seconds:.2f} s)[/dim]")

    with screen.status("Démarrage des services…") as status:
        async with Running(country):
            screen.print(f"[green]✓[/green] annuaire, dossier patient et deux opérateurs en service ({_since(begin)})")
            good = await Scenario(country, tell, lambda name: status.update(f"{name}…")).play()
            status.stop()
            _summary(steps, as_json)
            if stay:
                stop = _interruption()
                _how_to_connect(country)
                await stop.wait()
    return 0 if good else 1


def _summary(steps: list[Step], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(step) for step in steps], ensure_ascii=False, indent=2))
        return
    table = Table(title="Preuves", title_justify="left", header_style="bold", show_lines=True)
    for name in ("étape", "temps", "preuve"):
        table.add_column(name, overflow="fold")
    for step in steps:
        colour = "yellow" if step.skipped else "green" if step.ok else "red"
        table.add_row(f"[{colour}]{step.name}[/{colour}]", f"{step.seconds:.2f} s", plain_text(step.proof))
    console.print(table)


def _how_to_connect(country: Country) -> None:
    doctors, hospital, national = (
        place.settings.listen for place in (country.doctors, country.hospital, country.national)
    )
    table = Table(title="Pour se connecter (Ctrl-C arrête tout)", title_justify="left", header_style="bold")
    for name in ("qui", "où", "mot de passe"):
        table.add_column(name, overflow="fold")
    for address in (cast().gp.mail, cast().gp_with_own_key.mail):
        ports = f"127.0.0.1  IMAP {doctors.imaps} (TLS)  SMTP {doctors.submissions} (TLS)"
        name = (
            address
            if address == cast().gp.mail
            else f"{address} (garde sa clé : {country.own_key_file} ; signe avec sa carte, étape b2)"
        )
        table.add_row(name, ports, country.passwords[address])
    for address in (people.CARDIOLOGY, people.GATEWAY):
        ports = f"127.0.0.1  IMAP {hospital.imaps} (TLS)  SMTP {hospital.submissions} (TLS)"
        table.add_row(address, ports, country.passwords[address])
    console.print(table)
    console.print(f"Code d'envoi du CHU : [bold]{country.send_code}[/bold]")
    console.print(f"Annuaire : ldapsearch -x -H ldap://127.0.0.1:{national.ldap} -b dc=mssante,dc=fr '(sn=EXEMPLE)'")
    anchors = country.authority.folder / "anchors"
    console.print(
        f"Autorités à accepter dans le client de messagerie (web et courriel) : {anchors}/*.pem", soft_wrap=True
    )
    console.print(f"Suivre un message : bin/caducee trace MESSAGE-ID --dir {country.hospital.folder.root}")


def _interruption() -> asyncio.Event:
    """Set by Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _since(begin: float) -> str:
    return f"{time.perf_counter() - begin:.1f} s"
