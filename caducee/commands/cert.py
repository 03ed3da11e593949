"""`caducee cert`: the operator's own certificates, from the request (PKCS#10) to the warning that they end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from caducee.commands.common import FolderOption, JsonOption, console, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.trust_parts import open_trust
from caducee.wiring import now
from trustspace import TrustSpace, name_of, pem
from trustspace.enrolment import PROFILES, Holder, Level, ProfileName, request, statuses, take_in

app = typer.Typer(no_args_is_help=True, help="Certificats de l'opérateur / the operator's certificates.")
ProfileOption = Annotated[
    ProfileName,
    typer.Option(
        help="Offre IGC-Santé : ssl-serv (entre opérateurs, IMAP, SMTP), auth-cli et sign (DMP), conf, smime."
    ),
]


@app.command("request")
def request_certificate(
    profile: ProfileOption = ProfileName.SSL_SERV,
    cn: Annotated[str, typer.Option(help="Sinon, operator.hostname ou organisation / else from the settings.")] = "",
    name: Annotated[list[str] | None, typer.Option(help="Autre nom de serveur, répétable / other host name.")] = None,
    mail: Annotated[str, typer.Option(help="Adresse (profils smime, conf) / address.")] = "",
    bits: Annotated[int, typer.Option(help="Taille de la clé RSA / RSA key size.", min=2048, max=4096)] = 2048,
    folder: FolderOption = Path(),
) -> None:
    """Crée une clé et une demande PKCS#10 pour l'IGC-Santé / make a key and a PKCS#10 request for IGC-Santé.

    Le certificat en service ne change pas : la nouvelle clé attend à côté / the certificate in use does not change.
    """
    operator = load_settings(folder).operator
    serves = profile is ProfileName.SSL_SERV
    names = (operator.hostname, *(f"autoconfig.{one}" for one in operator.domains), *(name or ())) if serves else ()
    holder = Holder(
        cn=cn or (operator.hostname if serves else mail or operator.organisation),
        organisation=operator.organisation,
        structure_id=operator.structure_id,
        department=operator.department,
        names=tuple(dict.fromkeys(names)),
        mail=mail,
    )
    path = request(OperatorFolder(folder).keys, profile, holder, bits=bits)
    done(f"{path} : à déposer à l'IGC-Santé, puis / to hand to IGC-Santé, then: caducee cert import FICHIER")


@app.command("import")
def import_certificate(
    file: Annotated[Path, typer.Argument(help="Certificat reçu, et sa chaîne (PEM, DER) / certificate and its chain.")],
    profile: ProfileOption = ProfileName.SSL_SERV,
    folder: FolderOption = Path(),
) -> None:
    """Vérifie un certificat reçu et le met en service, sans redémarrer / check a certificate and put it in use."""
    place, settings = OperatorFolder(folder), load_settings(folder)
    trust = open_trust(place, settings)
    chain = take_in(place.keys, profile, pem.read_certificates(file), trust, now())
    done(f"{place.keys / PROFILES[profile].name}.pem: {chain[0].subject.rfc4514_string()}")
    done(
        f"valide jusqu'au / valid until {chain[0].not_valid_after_utc:%Y-%m-%d}, {len(chain)} certificats / certificates"
    )
    if profile is ProfileName.SSL_SERV:
        for domain in _unlisted(trust, settings.operator.domains, chain[0]):
            console.print(
                f"[yellow]! {domain} : la liste blanche ne donne pas ce DN ; les autres opérateurs refuseront / "
                "the white list has not this DN for it: other operators will refuse[/yellow]"
            )


@app.command()
def status(
    check: Annotated[
        bool, typer.Option("--check", help="Code 2 si l'un finit sous 30 jours / code 2 when one ends within 30 days.")
    ] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les certificats de l'opérateur et leur fin : alertes à 60, 30 et 7 jours / certificates and their ends."""
    place, settings = OperatorFolder(folder), load_settings(folder)
    try:
        trust: TrustSpace | None = open_trust(place, settings)
    except UsageError:
        trust = None
    found = statuses(place.keys, trust, now())
    rows = [
        {
            "nom": one.name,
            "sujet": one.subject,
            "fin": one.ends,
            "jours": one.days_left,
            "état": one.level,
            "chemin": one.reason,
            "demande": "en attente / waiting" if one.waiting else "",
        }
        for one in found
    ]
    show(rows, as_json=as_json, empty="aucun certificat / no certificate")
    urgent = [one.name for one in found if one.level in {Level.NEAR, Level.URGENT, Level.EXPIRED}]
    if check and urgent:
        raise UsageError(f"à renouveler / to renew: {', '.join(urgent)}")


def _unlisted(trust: TrustSpace, domains: tuple[str, ...], leaf: x509.Certificate) -> list[str]:
    white_list = trust.white_list
    if white_list is None:
        return list(domains)
    own = name_of(leaf)
    return [domain for domain in domains if own not in white_list.names.get(domain, frozenset())]
