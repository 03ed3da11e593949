"""`caducee keys`: the keys that sign and open on the server, for mailboxes and domains."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_store, open_tokens, proxy_policy
from mailstore import Event, KeyRecord, Store
from proxy import CustodyPolicy
from proxy.keychain import USAGES, Keychain, KeyKind, KeyRefused
from proxy.policy import BadPolicy, effective
from proxy.tokens import Reference
from smime import SmimeError
from trustspace import pem

app = typer.Typer(
    no_args_is_help=True,
    help="Clés côté serveur / server-side keys. Une clé remplacée ne signe plus mais ouvre encore l'ancien courrier ; "
    "la détruire demande deux dépositaires / a replaced key still opens old mail; destroying one takes two custodians.",
)
custodian_app = typer.Typer(no_args_is_help=True, help="Dépositaires, qui détruisent à deux / custodians.")
app.add_typer(custodian_app, name="custodian")

HolderArgument = Annotated[str, typer.Argument(help="Boîte, ou domaine (clé d'organisation) / a mailbox, or a domain.")]
KeyArgument = Annotated[int, typer.Argument(help="Numéro de la clé / the key's number.")]
UsageOption = Annotated[str, typer.Option(help=f"Usage : {', '.join(USAGES)}.")]
ByOption = Annotated[str, typer.Option(help="Qui le fait, pour la trace / who does it, for the audit trail.")]
ReasonOption = Annotated[str, typer.Option(help="Pourquoi, pour la trace / why, for the audit trail.")]
TokenOption = Annotated[str, typer.Option(help="Jeton PKCS#11 / PKCS#11 token: label.")]
StdinOption = Annotated[bool, typer.Option("--stdin", help="Lit le secret sur l'entrée standard / secret from stdin.")]
OutOption = Annotated[Path, typer.Option(help="Où écrire la demande (PEM) / where to write the request.")]


@app.command("list")
def list_keys(
    holder: Annotated[str, typer.Argument(help="Boîte ou domaine ; tous par défaut / all by default.")] = "",
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les clés, jamais leur partie privée / show the keys, never their private part."""
    store, _ = _open(folder)
    rows = [
        {
            "clé": one.id,
            "titulaire": one.holder,
            "usage": one.usage,
            "où": one.place or "logiciel",
            "état": _state(one),
            "certificat": _certificate(one),
            "créée": one.created_at,
            "retirée": one.retired_at,
        }
        for one in store.key_records(holder or None)
    ]
    show(rows, as_json=as_json)


@app.command()
def generate(
    holder: HolderArgument,
    out: OutOption,
    usage: UsageOption = "smime",
    subject: Annotated[
        str,
        typer.Option(help="Sujet (RFC 4514) ; défaut : celui du certificat en vigueur / default: the present one's."),
    ] = "",
    kind: Annotated[KeyKind, typer.Option(help="Sorte de clé / kind of key.")] = KeyKind.RSA_2048,
    token: TokenOption = "",
    label: Annotated[str, typer.Option(help="Nom de la clé dans le jeton / the key's label in the token.")] = "",
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Crée une clé et sa demande de certificat, première moitié d'un remplacement / make a key and its request."""
    store, chain = _open(folder)
    name = _subject(subject) if subject else _present_subject(store, holder, usage)
    place = Reference(token, label or f"{holder} {now():%Y-%m-%d}") if token else None
    try:
        made = chain.generate(holder.lower(), usage, name, at=now(), by=_who(by), kind=kind, token=place)
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{holder}: {error}") from None
    pem.write_public(out, made.request)
    done(f"clé {made.key_id}; demande / request: {out}. Ensuite / then: caducee keys install {made.key_id} CERTIFICAT")


@app.command()
def install(
    key_id: KeyArgument,
    certificate: Annotated[
        Path, typer.Argument(help="Chaîne PEM, certificat d'abord / PEM chain, leaf first.", exists=True)
    ],
    keep_others: Annotated[
        bool, typer.Option(help="Ne retire pas les anciennes / do not retire the earlier ones.")
    ] = False,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Donne son certificat à une clé, et retire celles qu'elle remplace / install a certificate, retire the others."""
    _, chain = _open(folder)
    try:
        record = chain.install(key_id, certificate.read_bytes(), at=now(), by=_who(by), replace=not keep_others)
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{certificate}: {error}") from None
    done(f"clé {key_id} en service pour / in force for {record.holder}")


@app.command("import")
def import_key(
    holder: HolderArgument,
    file: Annotated[Path, typer.Argument(help="PKCS #12 (.p12, .pfx).", exists=True)],
    usage: UsageOption = "smime",
    stdin: StdinOption = False,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Importe une clé et ses certificats / import a key with its certificates."""
    _, chain = _open(folder)
    password = _secret(stdin, "Mot de passe du fichier / the file's password: ")
    try:
        key_id = chain.import_pkcs12(holder, usage, file.read_bytes(), password.encode(), at=now(), by=_who(by))
    except KeyRefused as error:
        raise UsageError(f"{file}: {error}") from None
    done(f"clé {key_id} importée pour / imported for {holder}. Détruire le fichier / destroy the file: {file}")


@app.command()
def attach(
    holder: HolderArgument,
    certificate: Annotated[Path, typer.Argument(help="Chaîne PEM / PEM chain.", exists=True)],
    token: TokenOption,
    label: Annotated[str, typer.Option(help="Nom de la clé dans le jeton / the key's label.")],
    usage: UsageOption = "smime",
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Se sert d'une clé qui est déjà dans un jeton / use a key that is in a token already."""
    _, chain = _open(folder)
    try:
        key_id = chain.attach(holder, usage, Reference(token, label), certificate.read_bytes(), at=now(), by=_who(by))
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{token}/{label}: {error}") from None
    done(f"clé {key_id} pour / for {holder}")


@app.command()
def retire(key_id: KeyArgument, reason: ReasonOption, by: ByOption = "", folder: FolderOption = Path()) -> None:
    """Met une clé hors service : elle ne signe plus, elle ouvre encore / it signs no more, it still opens."""
    _, chain = _open(folder)
    try:
        chain.retire(key_id, at=now(), by=_who(by), reason=reason)
    except KeyRefused as error:
        raise UsageError(str(error)) from None
    done(f"clé {key_id} retirée / retired")


@app.command()
def destroy(
    key_id: KeyArgument,
    custodian: Annotated[str, typer.Option(help="Dépositaire / custodian.")],
    reason: ReasonOption = "",
    stdin: StdinOption = False,
    folder: FolderOption = Path(),
) -> None:
    """Demande la destruction (premier dépositaire, avec --reason), puis détruit (second) / ask, then destroy."""
    store, chain = _open(folder)
    passphrase = _secret(stdin, f"Phrase secrète de {custodian} / passphrase: ")
    try:
        if chain.record(key_id).destruction_asked_by:
            chain.destroy(key_id, custodian=custodian, passphrase=passphrase, at=now())
            done(f"clé {key_id} détruite ; ses copies de sauvegarde restent à détruire / destroyed; mind your backups")
            return
        if not reason:
            raise UsageError("--reason: nécessaire à la première demande / needed for the first request")
        chain.ask_destruction(key_id, custodian=custodian, passphrase=passphrase, reason=reason, at=now())
    except KeyRefused as error:
        raise UsageError(f"{key_id}: {error}") from None
    others = ", ".join(name for name in store.custodians() if name.casefold() != custodian.casefold())
    done(
        f"destruction de la clé {key_id} demandée ; un second dépositaire doit confirmer / a second one must: {others}"
    )


@custodian_app.command("add")
def add_custodian(
    name: Annotated[str, typer.Argument(help="Son nom / their name.")],
    sponsor: Annotated[
        str, typer.Option(help="Dépositaire qui l'accepte, dès qu'il y en a deux / who vouches, once there are two.")
    ] = "",
    stdin: StdinOption = False,
    folder: FolderOption = Path(),
) -> None:
    """Nomme un dépositaire, qui choisit sa phrase secrète / name a custodian, who chooses a passphrase."""
    store, _ = _open(folder)
    if len(store.custodians()) >= 2:
        if not sponsor:
            raise UsageError("--sponsor: un dépositaire en place doit l'accepter / a custodian must vouch")
        if not store.is_custodian(sponsor, _secret(stdin, f"Phrase secrète de {sponsor} / passphrase: ")):
            raise UsageError(f"{sponsor}: dépositaire inconnu ou phrase fausse / unknown, or wrong passphrase")
    passphrase = _secret(stdin, f"Phrase secrète pour {name} (12 signes au moins) / passphrase: ")
    if len(passphrase) < 12:
        raise UsageError("phrase trop courte : 12 signes au moins / too short: at least 12 characters")
    store.add_custodian(name, passphrase, now())
    store.record((Event("custodian.added", {"by": sponsor or _who(""), "name": name}),), at=now())
    done(f"{name} est dépositaire / is a custodian")


@custodian_app.command("list")
def list_custodians(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les dépositaires / show the custodians."""
    store, _ = _open(folder)
    show([{"dépositaire": name} for name in store.custodians()], as_json=as_json)


def _open(folder: Path) -> tuple[Store, Keychain]:
    settings, place = load_settings(folder), OperatorFolder(folder)
    store = open_store(place, settings)
    return store, Keychain(store, lambda holder: _custody(store, settings, holder), open_tokens(place, settings))


def _custody(store: Store, settings: Settings, holder: str) -> CustodyPolicy:
    """The custody policy of a mailbox or a domain. Raises UsageError when neither is ours."""
    name, operator = holder.lower(), proxy_policy(settings)
    if "@" not in name:
        if name not in settings.operator.domains:
            raise UsageError(f"{name}: domaine inconnu ici / not one of our domains")
        return CustodyPolicy(store.policies((name,))[name].get("custody", operator.custody))
    account = store.find_account(name)
    if account is None:
        raise UsageError(f"{name}: boîte inconnue. « caducee account list » les montre / unknown mailbox")
    try:
        asked = store.policies((name, name.rpartition("@")[2]))
        return effective(name, account.kind, operator, asked).custody
    except BadPolicy as error:
        raise UsageError(str(error)) from None


def _present_subject(store: Store, holder: str, usage: str) -> x509.Name:
    for one in store.key_records(holder):
        if one.usage == usage and one.chain_pem:
            return x509.load_pem_x509_certificate(one.chain_pem).subject
    raise UsageError(f"--subject: nécessaire, {holder} n'a pas encore de certificat / needed: no certificate yet")


def _subject(text: str) -> x509.Name:
    try:
        return x509.Name.from_rfc4514_string(text)
    except ValueError:
        raise UsageError(f"--subject: « {text} » : écrire comme CN=…,O=…,C=FR (RFC 4514) / write it so") from None


def _state(one: KeyRecord) -> str:
    if one.destroyed_at:
        return f"détruite par {one.destruction_asked_by} et {one.destroyed_by} / destroyed"
    if one.destruction_asked_by:
        return f"destruction demandée par {one.destruction_asked_by} / asked"
    if not one.chain_pem:
        return "attend son certificat / waits for its certificate"
    return "retirée / retired" if one.retired_at else "en service / in force"


def _certificate(one: KeyRecord) -> str:
    if not one.chain_pem:
        return ""
    certificate = x509.load_pem_x509_certificate(one.chain_pem)
    return f"{certificate.subject.rfc4514_string()} ({certificate.not_valid_after_utc:%d/%m/%Y})"


def _who(by: str) -> str:
    try:
        return by or getpass.getuser()
    except (OSError, KeyError):
        return "?"


def _secret(stdin: bool, prompt: str) -> str:
    return sys.stdin.readline().rstrip("\n") if stdin else getpass.getpass(prompt)
