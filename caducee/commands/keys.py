"""`caducee keys`: the keys that sign and open on the server, for mailboxes and domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from caducee.commands import custodians, master_key
from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.commands.custodians import StdinOption, secret, who
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.key_publication import publish_certificates
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store, open_tokens, proxy_policy
from directory import DirectoryError
from mailstore import KeyRecord, Store
from proxy import CustodyPolicy
from proxy.keychain import USAGES, Keychain, KeyKind, KeyRefused
from proxy.policy import BadPolicy, effective
from proxy.tokens import Reference
from smime import SmimeError
from trustspace import pem

LIFE = "Vie d'une clé, dans l'ordre / the life of a key, in order"
CUSTODY = "Dépositaires / custodians"
MASTER = "Clé maîtresse / master key"

app = typer.Typer(
    no_args_is_help=True,
    help="Clés côté serveur / server-side keys.\n\nNouvelle clé, ou remplacement : generate, puis la demande à l'autorité, puis "
    "install. Une clé remplacée ou retirée ne signe plus mais ouvre encore l'ancien courrier ; la détruire demande deux "
    "dépositaires / new key, or replacement: generate, send the request to the authority, then install. A replaced or "
    "retired key signs no more but still opens old mail; destroying one takes two custodians.",
)
app.add_typer(custodians.app, name="custodian", rich_help_panel=CUSTODY)

HolderArgument = Annotated[str, typer.Argument(help="Boîte, ou domaine (clé d'organisation) / a mailbox, or a domain.")]
KeyArgument = Annotated[int, typer.Argument(help="Numéro de la clé / the key's number.")]
UsageOption = Annotated[str, typer.Option(help=f"Usage : {', '.join(USAGES)}.")]
ByOption = Annotated[str, typer.Option(help="Qui le fait, pour la trace / who does it, for the audit trail.")]
ReasonOption = Annotated[str, typer.Option(help="Pourquoi, pour la trace / why, for the audit trail.")]
TokenOption = Annotated[str, typer.Option(help="Jeton PKCS#11 / PKCS#11 token: label.")]
PublishOption = Annotated[
    bool, typer.Option("--publish/--no-publish", help="Met l'annuaire à jour / update the directory.")
]
OutOption = Annotated[Path, typer.Option(help="Où écrire la demande (PEM) / where to write the request.")]


@app.command("list", rich_help_panel=LIFE)
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


@app.command(rich_help_panel=LIFE)
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
        made = chain.generate(holder.lower(), usage, name, at=now(), by=who(by), kind=kind, token=place)
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{holder}: {error}") from None
    pem.write_public(out, made.request)
    done(f"clé {made.key_id}; demande / request: {out}. Ensuite / then: caducee keys install {made.key_id} CERTIFICAT")


@app.command(rich_help_panel=LIFE)
def install(
    key_id: KeyArgument,
    certificate: Annotated[
        Path, typer.Argument(help="Chaîne PEM, certificat d'abord / PEM chain, leaf first.", exists=True)
    ],
    keep_others: Annotated[
        bool, typer.Option(help="Ne retire pas les anciennes / do not retire the earlier ones.")
    ] = False,
    publish: PublishOption = True,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Donne son certificat à une clé, et retire celles qu'elle remplace / install a certificate, retire the others."""
    store, chain = _open(folder)
    try:
        record = chain.install(key_id, certificate.read_bytes(), at=now(), by=who(by), replace=not keep_others)
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{certificate}: {error}") from None
    done(f"clé {key_id} en service pour / in force for {record.holder}")
    if publish:
        _publish(folder, store, record.holder)


@app.command("import", rich_help_panel=LIFE)
def import_key(
    holder: HolderArgument,
    file: Annotated[Path, typer.Argument(help="PKCS #12 (.p12, .pfx).", exists=True)],
    usage: UsageOption = "smime",
    stdin: StdinOption = False,
    publish: PublishOption = True,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Importe une clé et ses certificats / import a key with its certificates."""
    store, chain = _open(folder)
    password = secret(stdin, "Mot de passe du fichier / the file's password: ")
    try:
        key_id = chain.import_pkcs12(holder, usage, file.read_bytes(), password.encode(), at=now(), by=who(by))
    except KeyRefused as error:
        raise UsageError(f"{file}: {error}") from None
    done(f"clé {key_id} importée pour / imported for {holder}. Détruire le fichier / destroy the file: {file}")
    if publish:
        _publish(folder, store, holder.lower())


@app.command(rich_help_panel=LIFE)
def attach(
    holder: HolderArgument,
    certificate: Annotated[Path, typer.Argument(help="Chaîne PEM / PEM chain.", exists=True)],
    token: TokenOption,
    label: Annotated[str, typer.Option(help="Nom de la clé dans le jeton / the key's label.")],
    usage: UsageOption = "smime",
    publish: PublishOption = True,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Se sert d'une clé qui est déjà dans un jeton / use a key that is in a token already."""
    store, chain = _open(folder)
    try:
        key_id = chain.attach(holder, usage, Reference(token, label), certificate.read_bytes(), at=now(), by=who(by))
    except (KeyRefused, SmimeError) as error:
        raise UsageError(f"{token}/{label}: {error}") from None
    done(f"clé {key_id} pour / for {holder}")
    if publish:
        _publish(folder, store, holder.lower())


@app.command(rich_help_panel=LIFE)
def retire(
    key_id: KeyArgument,
    reason: ReasonOption,
    publish: PublishOption = True,
    by: ByOption = "",
    folder: FolderOption = Path(),
) -> None:
    """Met une clé hors service : elle ne signe plus, elle ouvre encore / it signs no more, it still opens."""
    store, chain = _open(folder)
    try:
        chain.retire(key_id, at=now(), by=who(by), reason=reason)
    except KeyRefused as error:
        raise UsageError(str(error)) from None
    done(f"clé {key_id} retirée / retired")
    if publish:
        _publish(folder, store, chain.record(key_id).holder)


@app.command("publish", rich_help_panel=LIFE)
def publish_keys(holder: HolderArgument, folder: FolderOption = Path()) -> None:
    """Met à jour les certificats d'une boîte dans l'annuaire / bring a mailbox's certificates in the directory up to date."""
    store, _ = _open(folder)
    if not _publish(folder, store, holder.lower()):
        raise typer.Exit(1)


@app.command(rich_help_panel=LIFE)
def destroy(
    key_id: KeyArgument,
    custodian: Annotated[str, typer.Option(help="Dépositaire / custodian.")],
    reason: ReasonOption = "",
    stdin: StdinOption = False,
    folder: FolderOption = Path(),
) -> None:
    """Demande la destruction (premier dépositaire, avec --reason), puis détruit (second) / ask, then destroy."""
    store, chain = _open(folder)
    passphrase = secret(stdin, f"Phrase secrète de {custodian} / passphrase: ")
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


app.command("rotate-master", rich_help_panel=MASTER)(master_key.rotate_master)
app.command("rewrap", rich_help_panel=MASTER)(master_key.rewrap)


def _publish(folder: Path, store: Store, holder: str) -> bool:
    """The directory's turn. The key is in force whatever comes of it: a failure is told, with what to do."""
    if "@" not in holder:
        return True  # a domain has no entry: its certificate goes with the signature
    settings = load_settings(folder)
    try:
        directory = open_directory(OperatorFolder(folder), settings, write=True)
        done_there = publish_certificates(directory, store, holder)
        directory.close()
    except (DirectoryError, UsageError) as error:
        typer.echo(
            f"! annuaire pas à jour ({error}) ; ensuite / directory not up to date; then: caducee keys publish {holder}",
            err=True,
        )
        return False
    if not done_there:
        typer.echo(
            f"! {holder} n'est pas dans l'annuaire / is not in the directory: caducee directory publish", err=True
        )
        return False
    done(f"annuaire à jour pour / directory up to date for {holder}")
    return True


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
