"""`caducee deposits` and `caducee dossier`: what happened to the documents, and what the record holds."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from caducee.bridge_parts import open_register
from caducee.commands.common import FolderOption, JsonOption, console, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.record import open_record
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from dmp_bridge import DepositContext
from dmp_bridge.context import DELETE
from dmp_bridge.oppositions import ImportRefused, read_oppositions
from dossier import Caller, PatientState, RecordView
from ihe.datatypes import patient_id
from ihe.ins import INS_OIDS, INS_TEST
from mailstore import DepositState, Store

app = typer.Typer(
    no_args_is_help=True, help="Dépôts de documents au DMP / deposits of documents in the patient's record."
)
dossier_app = typer.Typer(no_args_is_help=True, help="Le dossier patient embarqué / the embedded patient's record.")


oppositions_app = typer.Typer(no_args_is_help=True, help="Oppositions des patients au dépôt / patients' oppositions.")
app.add_typer(oppositions_app, name="oppositions")
DepositArgument = Annotated[int, typer.Argument(help="Numéro du dépôt / number of the deposit (deposits list).")]


def _store(folder: Path) -> Store:
    return open_store(OperatorFolder(folder), load_settings(folder))


def _who() -> str:
    return f"operateur:{getpass.getuser()}"


@app.command("list")
def list_deposits(
    state: Annotated[DepositState | None, typer.Option(help="Seulement cet état / only this state.")] = None,
    after: Annotated[
        int, typer.Option(help="Page suivante : le dernier numéro vu / next page: the last number seen.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lignes au plus / rows at most.")] = 100,
    count: Annotated[bool, typer.Option("--count", help="Seulement combien par état / only how many a state.")] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les dépôts / show the deposits. « --state needs_attention » : ce qui attend une personne / what waits for
    a person."""
    store = _store(folder)
    if count:
        rows = [{"état": one, "dépôts": number} for one, number in store.count_deposits().items()]
        show(rows, as_json=as_json)
        return
    last = store.deposit(after) if after else None
    if after and last is None:
        raise UsageError(f"{after}: dépôt inconnu / unknown deposit")
    show(
        [
            {
                "n°": one.id,
                "document": one.unique_id,
                "SHA-1": one.sha1,
                "état": one.state,
                "raison": one.reason,
                "essais": one.attempts,
                "envoi": one.submission_id,
            }
            for one in store.deposits(state, after=last, limit=limit)
        ],
        as_json=as_json,
        empty="aucun dépôt / no deposit",
    )


@app.command("show")
def show_deposit(number: DepositArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre un dépôt : son état, toutes ses raisons, qui l'a demandé, son histoire / show one deposit and its history."""
    store = _store(folder)
    one = store.deposit(number)
    if one is None:
        raise UsageError(f"{number}: dépôt inconnu / unknown deposit")
    raw = store.deposit_context(number)
    context = DepositContext.from_json(raw) if raw else None
    asked = {DELETE: "suppression / deletion"}.get(context.action, "dépôt / deposit") if context else ""
    rows: list[dict[str, object]] = [
        {"quoi": "document", "valeur": one.unique_id},
        {"quoi": "SHA-1", "valeur": one.sha1},
        {"quoi": "état", "valeur": one.state},
        {"quoi": "demande", "valeur": asked},
        {"quoi": "lot", "valeur": one.submission_set_id},
        {"quoi": "essais", "valeur": one.attempts},
        {"quoi": "prochain essai", "valeur": one.next_attempt_at},
        {"quoi": "envoi", "valeur": one.submission_id},
        {"quoi": "expéditeur", "valeur": context.sender if context else ""},
        {"quoi": "visibilité", "valeur": ", ".join(context.visibility) if context else ""},
    ]
    rows += [{"quoi": "raison", "valeur": part} for part in one.reason.split(" ; ") if part]
    for event in store.trace(one.submission_id):
        if event.event.detail.get("deposit") == str(number):
            detail = event.event.detail
            words = [event.event.name, detail.get("who", ""), detail.get("recipient", ""), detail.get("reason", "")]
            rows.append({"quoi": event.at, "valeur": " ".join(word for word in words if word)})
    show(rows, as_json=as_json, title=f"Dépôt {number}")


@app.command("retry")
def retry_deposits(
    numbers: Annotated[list[int], typer.Argument(help="Numéros des dépôts / numbers of the deposits.")],
    reason: Annotated[str, typer.Option(help="Pourquoi, pour la trace / why, for the trail.")] = "",
    folder: FolderOption = Path(),
) -> None:
    """Fait réessayer des dépôts tout de suite, tels quels ; vous en répondez / have deposits tried again as they are;
    you answer for it."""
    _direct(folder, numbers, DepositState.READY, reason or "repris à la main / retried by hand")


@app.command("abandon")
def abandon_deposits(
    numbers: Annotated[list[int], typer.Argument(help="Numéros des dépôts / numbers of the deposits.")],
    reason: Annotated[str, typer.Option(help="Pourquoi, pour la trace / why, for the trail.")] = "",
    folder: FolderOption = Path(),
) -> None:
    """Abandonne des dépôts ; le document reste gardé, et peut être repris / give deposits up; the document is kept."""
    _direct(folder, numbers, DepositState.ABANDONED, reason or "abandonné à la main / given up by hand")


def _direct(folder: Path, numbers: list[int], state: DepositState, reason: str) -> None:
    store = _store(folder)
    for number in numbers:
        one = store.direct_deposit(number, state, reason, now(), who=_who())
        done(f"{number}: {one.state.value}")


@app.command("reminders")
def list_reminders(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les documents cachés au patient et leurs rappels (14 et 30 jours) / show hidden documents and their reminders."""
    place = OperatorFolder(folder)
    register = open_register(place, load_settings(folder))
    show(
        [
            {"dépôt": one.deposit_id, "document": one.unique_id, "jours": one.days, "le": due, "à": one.notify}
            for one, due in register.waiting_reminders()
        ],
        as_json=as_json,
        empty="aucun rappel / no reminder",
    )


@app.command("announced")
def announced(
    unique_id: Annotated[str, typer.Argument(help="uniqueId du document annoncé / of the announced document.")],
    folder: FolderOption = Path(),
) -> None:
    """Le document a été annoncé au patient : plus de rappels / the patient was told: no more reminders."""
    register = open_register(OperatorFolder(folder), load_settings(folder))
    number = register.announced(unique_id, now())
    if not number:
        raise UsageError(f"{unique_id}: aucun rappel en attente / no reminder is waiting")
    done(f"{number} rappel(s) retiré(s) / reminder(s) removed")


@oppositions_app.command("import")
def import_oppositions(
    files: Annotated[list[Path], typer.Argument(help="CSV « ins;oid;opposition[;date] » ou/or HL7 PAM-FR (ZFA).")],
    folder: FolderOption = Path(),
) -> None:
    """Importe des volontés de patients ; la plus récente compte / import patients' wills; the newest counts."""
    register = open_register(OperatorFolder(folder), load_settings(folder))
    for path in files:
        told = known = 0
        try:
            # The whole file is read before anything is written: a bad line leaves the register as it was.
            lines = list(read_oppositions(path.read_bytes(), at=now()))
        except ImportRefused as error:
            raise UsageError(f"{path}: {error}") from None
        for line in track(lines, description=path.name, console=console, transient=True):
            known += 1
            told += register.tell(line, path.name)
        done(f"{path.name}: {told} / {known}")


@oppositions_app.command("show")
def show_opposition(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient / the patient's INS.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre ce qui est su d'un patient / show what is known of a patient."""
    register = open_register(OperatorFolder(folder), load_settings(folder))
    rows = []
    for oid in sorted(INS_OIDS):
        told = register.state(ins, oid)
        if told is not None:
            rows.append({"OID": oid, "opposé": told.opposed, "depuis": told.since, "source": told.source})
    show(rows, as_json=as_json, empty="rien n'est su de ce patient / nothing is known of this patient")


@oppositions_app.command("count")
def count_oppositions(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Compte les patients du registre / count the patients of the register."""
    opposed, known = open_register(OperatorFolder(folder), load_settings(folder)).counts()
    show([{"opposés": opposed, "connus": known}], as_json=as_json)


def _view(folder: Path) -> RecordView:
    place = OperatorFolder(folder)
    load_settings(folder)
    if not place.record.exists():
        raise UsageError(f"{place.record}: pas de dossier embarqué ici / no embedded record here")
    return RecordView(open_record(place), _who())


@dossier_app.command("show")
def show_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient (15 signes) / the patient's INS.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les documents d'un patient ; ce regard est tracé / show a patient's documents; the look is traced."""
    rows = [
        {
            "document": one.unique_id,
            "titre": one.title,
            "type": one.type_code,
            "auteur": one.author,
            "créé": one.created,
            "SHA-1": one.sha1,
            "octets": one.size,
            "statut": one.status,
            "visibilité": ", ".join(one.visibility),
        }
        for one in _view(folder).show(ins)
    ]
    show(rows, as_json=as_json, title="Documents", empty="aucun document / no document")


@dossier_app.command("open")
def open_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient / the patient's INS.")],
    oid: Annotated[str, typer.Option(help="OID de l'INS / of the INS.")] = INS_TEST,
    folder: FolderOption = Path(),
) -> None:
    """Ouvre (ou rouvre) le dossier d'un patient / open a patient's record (again)."""
    _set_state(folder, ins, oid, PatientState.ACTIVE)


@dossier_app.command("close")
def close_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient / the patient's INS.")],
    oid: Annotated[str, typer.Option(help="OID de l'INS / of the INS.")] = INS_TEST,
    folder: FolderOption = Path(),
) -> None:
    """Ferme le dossier d'un patient : les dépôts y sont refusés (DMPClosed) / close a record: deposits are refused."""
    _set_state(folder, ins, oid, PatientState.CLOSED)


def _set_state(folder: Path, ins: str, oid: str, state: PatientState) -> None:
    if oid not in INS_OIDS:
        raise UsageError(f"{oid}: pas un OID d'INS / not an INS OID")
    _view(folder).store.set_patient_state(patient_id(ins, oid), state, Caller(person=_who()))
    done(state.value)


@dossier_app.command("get")
def get_document(
    unique_id: Annotated[str, typer.Argument(help="uniqueId du document / the document's uniqueId.")],
    folder: FolderOption = Path(),
) -> None:
    """Écrit un document sur la sortie ; ce regard est tracé / write a document to stdout; the look is traced."""
    try:
        sys.stdout.buffer.write(_view(folder).fetch(unique_id))
    except KeyError:
        raise UsageError(f"{unique_id}: document inconnu / unknown document") from None


@dossier_app.command("trace")
def trace_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient / the patient's INS.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre qui a fait quoi dans le dossier d'un patient / show who did what in a patient's record."""
    rows = [
        {
            "heure": one.at,
            "action": one.action,
            "résultat": one.outcome,
            "qui": one.caller.person,
            "structure": one.caller.structure_id,
        }
        for one in _view(folder).accesses(ins)
    ]
    show(rows, as_json=as_json)
