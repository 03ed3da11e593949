"""`caducee xdm`: make the message of CDA documents, look into one, check one. Works without an operator's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

import mime
from caducee.commands.common import JsonOption, console, done, show
from caducee.errors import UsageError
from caducee.wiring import now
from dmp_bridge import FoundDocument, find_documents
from dmp_bridge.package import PackageRefused, Sender, make_message, make_package
from dmp_bridge.schematron import Schematrons, SchematronUnusable, compile_schematrons
from dmp_bridge.understand import Check, Schema, SchemaUnusable
from ihe.cda_rules import Severity
from ihe.naming import pdf_file_name
from ihe.pdf import FontMissing
from ihe.values import is_oid

app = typer.Typer(
    no_args_is_help=True,
    help="Paquets IHE_XDM des messages de documents / IHE_XDM packages of document messages.\n\n"
    "Pour une passerelle qui n'a que des CDA / for a gateway that only has CDA: "
    "[bold]caducee xdm make compte-rendu.xml --structure 1990000011 --name HOPITAL --out message/[/bold]",
)
MAX_FILE = 100 * 1024 * 1024
SchemasOption = Annotated[
    Path | None, typer.Option(help="Dossier du schéma CDA (CDA_extended.xsd) / folder of the CDA schema.")
]
SchematronsOption = Annotated[
    Path | None, typer.Option(help="Dossier de schématrons compilés / folder of compiled schematrons.")
]
FileArgument = Annotated[
    Path, typer.Argument(help="IHE_XDM.zip, message (.eml), CDA (.xml) ou/or HL7 v2 (.hl7, .er7).")
]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE:
            raise UsageError(f"{path}: trop volumineux / too large")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _checks(schemas: Path | None, schematrons: Path | None) -> tuple[Check, ...]:
    checks: list[Check] = []
    try:
        if schemas is not None:
            checks.append(Schema(schemas))
        if schematrons is not None:
            checks.append(Schematrons(schematrons))
    except (SchemaUnusable, SchematronUnusable) as error:
        raise UsageError(str(error)) from None
    return tuple(checks)


@app.command("make")
def make(
    documents: Annotated[
        list[Path], typer.Argument(help="Documents CDA d'un même patient / CDA documents of one patient.")
    ],
    out: Annotated[Path, typer.Option(help="Dossier où écrire / folder to write into.")],
    structure: Annotated[str, typer.Option(help="Structure : 1 + FINESS ou/or 3 + SIRET.")],
    name: Annotated[str, typer.Option(help="Nom de la structure / name of the structure.")],
    person: Annotated[str, typer.Option(help="Expéditeur / sender: 8 + RPPS.")] = "",
    source: Annotated[str, typer.Option(help="OID du système émetteur / of the emitting system.")] = "2.25.0",
    action: Annotated[str, typer.Option(help="C (remplace / replaces), D (supprime / deletes).")] = "",
    hide: Annotated[
        list[str] | None,
        typer.Option(help="MASQUE_PS, INVISIBLE_PATIENT, INVISIBLE_REPRESENTANTS_LEGAUX (répétable / repeatable)."),
    ] = None,
    sender: Annotated[
        str, typer.Option("--from", help="Adresse d'expédition : écrit aussi message.eml / writes it too.")
    ] = "",
    to: Annotated[list[str] | None, typer.Option("--to", help="Destinataires de message.eml / its recipients.")] = None,
    text: Annotated[str, typer.Option(help="Corps du message / body.")] = "Veuillez trouver ci-joint un document.\n",
) -> None:
    """Fabrique IHE_XDM.ZIP, les copies PDF/A, le sujet et les en-têtes / make the package, its PDFs, subject and headers."""
    if action not in ("", "C", "D"):
        raise UsageError("--action: C ou/or D")
    if not is_oid(source):
        raise UsageError(f"--source: {source}: pas un OID / not an OID")
    at = now()
    try:
        package = make_package(
            [_read(path) for path in documents],
            sender=Sender(structure, name, person),
            source_id=source,
            at=at,
            action=action,
            visibility=hide or (),
        )
    except PackageRefused as error:
        raise UsageError(str(error)) from None
    except FontMissing as error:
        raise UsageError(f"{error} (Debian: fonts-dejavu-core)") from None
    except KeyError as error:
        raise UsageError(f"--hide: {error.args[0]}: code inconnu / unknown code") from None
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {"IHE_XDM.ZIP": package.archive, **dict(package.pdfs)}
    head = [("Subject", package.subject), *package.fields]
    files["HEADERS.TXT"] = b"".join(mime.header_field(key, value) for key, value in head)
    if sender and to:
        message_id = f"<{at:%Y%m%d%H%M%S%f}.xdm@{sender.rpartition('@')[2]}>"
        files["message.eml"] = make_message(
            package, sender=sender, recipients=to, text=text, message_id=message_id, at=at
        )
    for file, content in files.items():
        # Documents of a patient: for their owner only.
        place = out / file
        place.write_bytes(content)
        place.chmod(0o600)
        done(str(place))


def _found(path: Path, checks: Sequence[Check]) -> tuple[tuple[FoundDocument, ...], tuple[str, ...]]:
    """The documents of a file, whatever its kind: it is looked at as the attachment of a message."""
    data = _read(path)
    lower = path.name.lower()
    if lower.endswith(".eml"):
        message = data
    else:
        kind, name = "application/octet-stream", path.name
        if data[:2] == b"PK":
            kind, name = "application/zip", "IHE_XDM.zip"
        elif data.lstrip(b"\x0b\xef\xbb\xbf\r\n ")[:4] == b"MSH|":
            kind = "application/hl7-v2"
        elif lower.endswith(".xml"):
            kind = "text/xml"
        body = mime.multipart("mixed", [mime.leaf(kind, data, filename=name)])
        message = mime.message([("Subject", "xdm")], body)
    findings = find_documents(message, at=now(), checks=checks)
    return findings.documents, findings.alone


@app.command("inspect")
def inspect(
    file: FileArgument,
    identity: Annotated[
        bool, typer.Option("--identity", help="Montre aussi le patient / show the patient too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Montre ce que contient un paquet ou un message / show what a package or a message holds."""
    documents, alone = _found(file, ())
    rows: list[Mapping[str, Any]] = []
    for one in documents:
        header = one.header
        row: dict[str, Any] = {
            "lieu": one.origin,
            "document": header.unique_id if header else "",
            "type": header.type.code if header else "",
            "niveau": header.level if header else "",
            "forme": header.form if header else "",
            "version": header.version if header else "",
            "remplace": (header.replaces or "") if header else "",
            "annonce": one.action,
            "visibilité": ", ".join(one.visibility),
            "octets": len(one.content),
            "SHA-1": one.sha1,
            "copies PDF": ", ".join(one.copies),
            "problème": one.problem.text() if one.problem else "",
        }
        if identity and header is not None:
            patient = header.patient
            row |= {
                "INS": patient.ins,
                "patient": f"{patient.birth_name} {patient.first_birth_given}",
                "titre": header.title,
            }
            row["nom du PDF"] = pdf_file_name(header)
        rows.append(row)
    rows += [
        {**dict.fromkeys(rows[0] if rows else ("lieu",), ""), "lieu": f"{place} (PDF seul / alone)"} for place in alone
    ]
    show(rows, as_json=as_json, empty="aucun document / no document")


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(help="Paquets, messages, CDA / packages, messages, CDA.")],
    schemas: SchemasOption = None,
    schematrons: SchematronsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Contrôle des documents et dit tout ce qui est trouvé ; code 1 s'il y a une erreur / check; exit 1 on any error."""
    checks, rows, bad = _checks(schemas, schematrons), list[Mapping[str, Any]](), False
    for path in files:
        documents, _ = _found(path, checks)
        if not documents:
            rows.append(_row(path, "", "error", "no-document", "", "aucun document / no document"))
            bad = True
        for one in documents:
            name = one.header.unique_id if one.header else one.origin
            if one.problem is not None:
                bad = True
                rows.append(
                    _row(path, name, "error", one.problem.code, "", f"{one.problem.french} / {one.problem.english}")
                )
            for finding in one.findings:
                bad = bad or finding.severity is Severity.ERROR
                words = f"{finding.french} / {finding.english}"
                rows.append(
                    _row(path, name, finding.severity.value, finding.code, finding.place, words, finding.source)
                )
    show(rows, as_json=as_json, empty="rien à signaler / nothing to report")
    if bad:
        raise typer.Exit(1)


def _row(
    path: Path, document: str, severity: str, code: str, place: str, words: str, source: str = ""
) -> dict[str, str]:
    return {
        "fichier": path.name,
        "document": document,
        "gravité": severity,
        "code": code,
        "lieu": place,
        "règle": source,
        "constat": words,
    }


@app.command("schematrons")
def schematrons(
    folder: Annotated[Path, typer.Argument(help="Dossier des .sch / folder of the .sch files.")],
    engine: Annotated[
        Path, typer.Option(help="Dossier des trois feuilles ISO / of the three ISO style sheets (moteur).")
    ],
) -> None:
    """Compile les schématrons du CI-SIS, une fois (des minutes) / compile the CI-SIS schematrons, once (minutes)."""
    made: list[Path] = []
    try:
        for _ in track([folder], description=folder.name, console=console, transient=True):
            made = compile_schematrons(folder, engine)
    except SchematronUnusable as error:
        raise UsageError(str(error)) from None
    for path in made:
        done(str(path))
