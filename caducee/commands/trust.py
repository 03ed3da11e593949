"""`caducee trust`: the white list in force, its history and changes, downloads, publication, and why a peer is trusted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from caducee.commands.common import FolderOption, JsonOption, console, done, plain_text, show
from caducee.commands.trust_explain import change_row, explain_certificate, explain_domain, explain_list
from caducee.commands.trust_publish import publish_list
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import Settings, load_settings
from caducee.trust_parts import TrustParts, open_trust, open_trust_parts
from caducee.wiring import now
from trustspace import (
    Freshness,
    ListedDomain,
    Purpose,
    TrustSpace,
    WhiteList,
    WhiteListRefused,
    load_white_list,
    pem,
)
from trustspace.downloads import read_downloads
from trustspace.history import ListHistory
from trustspace.listdiff import diff_lists
from trustspace.listshape import MAX_LIST_SIZE
from trustspace.loading import HISTORY_FOLDER
from trustspace.refresher import Outcome as Download
from trustspace.refresher import Result

app = typer.Typer(
    no_args_is_help=True,
    help="Espace de confiance : à qui se fie-t-on, et pourquoi / trust space: whom we trust, and why.",
)
app.command("publish")(publish_list)
AtOption = Annotated[
    datetime | None, typer.Option("--at", help="Moment de la question (UTC), sinon maintenant / moment asked about.")
]


@app.command("list")
def list_entries(
    words: Annotated[
        list[str] | None, typer.Argument(help="Mots cherchés partout dans une entrée / words looked for in an entry.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Lignes montrées, 0 pour toutes / rows shown, 0 for all.", min=0)] = 50,
    problems: Annotated[bool, typer.Option("--problems", help="Les entrées écartées / entries set aside.")] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Cherche dans la liste blanche en vigueur / search the white list in force.

    Sans mot : son état, puis ses entrées / without a word: its state, then its entries.
    Exemple / example: caducee trust list chu lyon
    """
    settings = load_settings(folder)
    trust = open_trust(OperatorFolder(folder), settings)
    white_list = _in_force(trust)
    if not as_json:
        _state(trust, OperatorFolder(folder), settings)
    if problems:
        rows = [{"position": one.position, "domaine": one.domain, "raison": one.reason} for one in white_list.problems]
        show(rows, as_json=as_json, empty="aucune entrée écartée / no entry set aside")
        return
    wanted = [word.casefold() for word in words or ()]
    found = [entry for entry in white_list.entries if all(word in _haystack(entry) for word in wanted)]
    shown = found[:limit] if limit else found
    show([_row(entry) for entry in shown], as_json=as_json, empty="aucune entrée / no entry")
    if not as_json:
        console.print(f"{len(shown)} / {len(found)} ({len(white_list.entries)} entrées / entries)")


@app.command()
def history(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre chaque version reçue, et chaque refus / show every version received, and every refusal."""
    lines = ListHistory(OperatorFolder(folder).trust / HISTORY_FOLDER).lines()
    rows = [
        {
            "reçue": line.at,
            "issue": line.outcome,
            "générée": line.generated,
            "entrées": line.entries or None,
            "sha256": line.digest if as_json else line.digest[:16],
            "raison": line.reason,
        }
        for line in lines
    ]
    show(rows, as_json=as_json, empty="aucune version / no version")


@app.command()
def diff(
    old: Annotated[
        str, typer.Argument(help="Version : début du SHA-256, fichier, ou rien pour la précédente / version.")
    ] = "",
    new: Annotated[str, typer.Argument(help="Version, ou rien pour la dernière / or nothing for the last.")] = "",
    texts: Annotated[bool, typer.Option(help="Aussi les textes / texts too.")] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Compare deux versions de la liste / compare two versions of the list.

    Sans argument : la dernière version reçue et celle d'avant / without argument: the last version and the one before.
    """
    settings = load_settings(folder)
    place = OperatorFolder(folder)
    versions = ListHistory(place.trust / HISTORY_FOLDER)
    trust = open_trust(place, settings)
    _in_force(trust)
    kept = versions.versions()
    if not old and len(kept) < 2:
        raise UsageError(f"{len(kept)} version dans l'historique, deux sont nécessaires / in history, two are needed")
    before = _version(old or kept[-2].digest, versions, trust, settings)
    after = _version(new or kept[-1].digest, versions, trust, settings)
    changes = [one for one in diff_lists(before, after) if texts or not one.field]
    if not as_json:
        console.print(f"{before.generated:%Y-%m-%dT%H:%M:%SZ} → {after.generated:%Y-%m-%dT%H:%M:%SZ}")
    show([change_row(one) for one in changes], as_json=as_json, empty="aucun changement / no change")


@app.command("import")
def import_list(
    file: Annotated[Path, typer.Argument(help="Liste blanche signée / signed white list.")],
    folder: FolderOption = Path(),
) -> None:
    """Vérifie une liste et la met en vigueur, comme un téléchargement / check a list and put it in force."""
    parts = open_trust_parts(OperatorFolder(folder), load_settings(folder))
    content = pem.read_bounded(file, MAX_LIST_SIZE)
    try:
        new = parts.refresher.install_list(content, now())
    except WhiteListRefused as refusal:
        raise UsageError(
            f"{file}: liste refusée, celle en vigueur reste / list refused, the one in force stays: {refusal}"
        ) from None
    _announce(_in_force(parts.space), new)


@app.command()
def refresh(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Télécharge maintenant la liste et les CRL / download the list and CRLs now."""
    settings = load_settings(folder)
    parts = open_trust_parts(OperatorFolder(folder), settings)
    outcomes = _with_progress(parts, quiet=as_json)
    show(
        [{"quoi": one.kind, "adresse": one.url, "issue": one.result, "détail": one.detail} for one in outcomes],
        as_json=as_json,
        empty="rien à télécharger : trust.list_url et trust.crl_urls sont vides / nothing to download",
    )
    if any(one.result in {Result.REFUSED, Result.FAILED} for one in outcomes):
        raise UsageError("au moins un téléchargement a échoué / at least one download failed")


@app.command()
def explain(
    subject: Annotated[str, typer.Argument(help="Domaine, certificat (PEM, DER) ou liste (XML) / domain or file.")],
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", "-c", help="Avec un domaine : ce certificat peut-il parler pour lui ?"),
    ] = None,
    domain: Annotated[str, typer.Option(help="Avec un certificat : pour ce domaine / for this domain.")] = "",
    side: Annotated[
        str, typer.Option(help="Côté du pair : client (il nous écrit) ou server (nous lui écrivons) / peer's side.")
    ] = "client",
    at: AtOption = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Explique une décision, par le code même qui la prend / explain a decision, by the very code that takes it.

    Exemples / examples: caducee trust explain chu.mssante.fr
    — caducee trust explain pair.pem --domain chu.mssante.fr --side server
    """
    trust = open_trust(OperatorFolder(folder), load_settings(folder))
    moment = _moment(at)
    if side not in {"client", "server"}:
        raise UsageError(f"--side {side}: client ou/or server")
    file = Path(subject)
    if certificate is not None:
        rows = explain_certificate(trust, certificate, subject, side, moment)
    elif not file.is_file():
        rows = explain_domain(trust, subject, moment)
    elif pem.read_bounded(file, MAX_LIST_SIZE).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        rows = explain_list(trust, file, moment)
    else:
        rows = explain_certificate(trust, file, domain, side, moment)
    show(rows, as_json=as_json)


def _in_force(trust: TrustSpace) -> WhiteList:
    white_list = trust.white_list
    if white_list is None:
        raise UsageError(f"aucune liste blanche en vigueur / no white list in force. {trust.alarm or ''}".rstrip())
    return white_list


def _state(trust: TrustSpace, place: OperatorFolder, settings: Settings) -> None:
    """Age, signer and troubles of what is in force, above the entries."""
    state, listed = trust.state(now()), _in_force(trust)
    style = {Freshness.FRESH: "green", Freshness.AGEING: "yellow"}.get(state.freshness, "red")
    age = state.list_age
    hours = f"{age.total_seconds() / 3600:.1f} h" if age is not None else "?"
    console.print(
        f"[bold]{listed.generated:%Y-%m-%dT%H:%M:%SZ}[/bold] [{style}]{state.freshness.value}[/{style}] "
        f"confirmée il y a / confirmed {hours}; {len(listed.names)} domaines / domains, "
        f"{len(listed.every_name)} DN, {len(listed.problems)} écartées / set aside; sha256 {listed.digest[:16]}"
    )
    for name, text in state.alarms.items():
        console.print(plain_text(f"! {name}: {text}"), style="red")
    for url, one in read_downloads(place.trust).items():
        if one.error:
            console.print(plain_text(f"! {url}: {one.error}"), style="red")
    if state.freshness is Freshness.AGEING:
        console.print(
            f"! arrêt à / stop at {settings.trust.stop_after_hours} h (trust.stop_after_hours)", style="yellow"
        )


def _haystack(entry: ListedDomain) -> str:
    return "\n".join((entry.domain, entry.operator_dn, entry.description, entry.contact, entry.support)).casefold()


def _row(entry: ListedDomain) -> dict[str, Any]:
    return {
        "domaine": entry.domain,
        "DN": entry.operator_dn,
        "description": entry.description,
        "contact": entry.contact,
        "support": entry.support,
        "maj": entry.updated,
    }


def _version(text: str, history: ListHistory, trust: TrustSpace, settings: Settings) -> WhiteList:
    """A kept version, by the beginning of its digest, or a file; verified again, at its own date."""
    file = Path(text)
    found = [line for line in history.versions() if line.digest.startswith(text.lower())]
    if len(found) > 1:
        raise UsageError(f"{text}: plusieurs versions commencent ainsi / several versions begin so")
    if not found and not file.is_file():
        raise UsageError(f"{text}: ni version connue, ni fichier / neither a known version nor a file (trust history)")
    content = history.read(found[0]) if found else pem.read_bounded(file, MAX_LIST_SIZE)
    try:
        return load_white_list(content, anchors=trust.anchors_for(Purpose.LIST), signer_cn=settings.trust.signer_cn)
    except WhiteListRefused as refusal:
        raise UsageError(f"{text}: {refusal}") from None


def _announce(listed: WhiteList, new: bool) -> None:
    state = "mise en vigueur / in force" if new else "déjà en vigueur, confirmée / in force already, confirmed"
    done(f"{state}: {listed.generated:%Y-%m-%dT%H:%M:%SZ}, {len(listed.entries)} entrées / entries")


def _with_progress(parts: TrustParts, *, quiet: bool) -> list[Download]:
    """Every download; people see that something happens, one address may take a minute."""
    with Progress(console=console, transient=True, disable=quiet) as progress:
        progress.add_task("téléchargement / download", total=None)
        return parts.refresher.tick(now(), force=True)


def _moment(at: datetime | None) -> datetime:
    return now() if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at
