"""`caducee pki`: a practice trust space (never a production one): authority, certificates, revocation, white list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import done
from caducee.errors import UsageError
from caducee.wiring import now
from directory.identifiers import parse_structure_id
from trustspace import ListedDomain, PracticeAuthority, pem

app = typer.Typer(no_args_is_help=True, help="Espace de confiance d'exercice / practice trust space.")
AuthorityArgument = Annotated[Path, typer.Argument(help="Dossier de l'autorité / the authority's folder.")]


@app.command()
def create(folder: AuthorityArgument) -> None:
    """Crée les autorités de test, de la forme de l'IGC-Santé / create test authorities shaped like IGC-Santé."""
    PracticeAuthority.create(folder, at=now())
    done(f"autorités d'exercice dans / practice authorities in {folder}")


@app.command()
def server(
    folder: AuthorityArgument,
    cn: Annotated[str, typer.Argument(help="Nom du serveur / the server's name.")],
    output: Annotated[Path, typer.Argument(help="Dossier où écrire CN.pem et CN.key / where to write.")],
    organisation: Annotated[str, typer.Option()] = "ORGANISATION D'EXERCICE",
    structure_id: Annotated[str, typer.Option(help="1+FINESS ou/or 3+SIRET.")] = "",
    department: Annotated[str, typer.Option()] = "Paris (75)",
    ip: Annotated[list[str] | None, typer.Option(help="Adresse IP à nommer / IP address to name.")] = None,
) -> None:
    """Certifie un serveur d'opérateur / certify an operator's server."""
    try:
        parse_structure_id(structure_id)
    except ValueError as error:
        raise UsageError(f"--structure-id: {error}") from None
    issued = PracticeAuthority.open(folder).issue_server(
        cn, organisation, structure_id, department, ips=ip or (), at=now()
    )
    certificate, key = issued.write(output, cn)
    done(f"{issued.certificate.subject.rfc4514_string()}: {certificate}, {key}")


@app.command()
def revoke(
    folder: AuthorityArgument, certificate: Annotated[Path, typer.Argument(help="Certificat à révoquer / to revoke.")]
) -> None:
    """Révoque un certificat et réécrit les CRL / revoke a certificate and rewrite the CRLs."""
    one = pem.read_certificates(certificate)[0]
    PracticeAuthority.open(folder).revoke(one, now())
    done(f"{one.subject.rfc4514_string()} révoqué / revoked")


@app.command()
def whitelist(
    folder: AuthorityArgument,
    entry: Annotated[
        list[str], typer.Option(help="domaine=certificat.pem, répétable / domain=certificate.pem, repeatable.")
    ],
) -> None:
    """Signe une liste blanche d'exercice / sign a practice white list."""
    entries = []
    for text in entry:
        domain, separator, path = text.partition("=")
        if not separator:
            raise UsageError(f"--entry {text}: écrire domaine=certificat.pem / write domain=certificate.pem")
        entries.append(ListedDomain.of(domain, pem.read_certificates(Path(path))[0]))
    PracticeAuthority.open(folder).publish_white_list(entries, now())
    done(f"{len(entries)} domaines / domains: {folder / 'listeblanche.xml'}")


@app.command()
def refresh(
    folder: AuthorityArgument,
    operators: Annotated[list[Path], typer.Argument(help="Dossiers d'opérateurs / operators' folders.")],
) -> None:
    """Donne autorités, CRL et liste aux opérateurs / give authorities, CRLs and list to operators."""
    authority = PracticeAuthority.open(folder)
    authority.write_crls(now())
    for operator in operators:
        if not (operator / "caducee.toml").exists():
            raise UsageError(f"{operator}: pas un dossier d'opérateur / not an operator's folder")
        authority.copy_trust(operator / "trust")
        done(str(operator))
