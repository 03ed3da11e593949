"""`caducee proxy`: send codes, for gateways and people without a card, and what each mailbox asks of the proxy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store, proxy_policy
from mailstore import Account, Event, SendCode, Store
from proxy import CODE_FIELD, BadPolicy, BadScope, CodeDesk, IssuedCode, Scope, check_value, effective
from proxy.policy import VALUES

app = typer.Typer(no_args_is_help=True, help="Protection côté serveur / server-side protection.")
code_app = typer.Typer(no_args_is_help=True, help="Codes d'envoi / send codes.")
policy_app = typer.Typer(
    no_args_is_help=True,
    help="Règles d'une boîte ou d'un domaine ; la boîte l'emporte sur le domaine, le domaine sur caducee.toml / policies "
    "of a mailbox or domain; the nearest one wins.\n\n"
    + "\n\n".join(f"{k}: {', '.join(v)}" for k, v in VALUES.items()),
)
app.add_typer(code_app, name="code")
app.add_typer(policy_app, name="policy")

AddressArgument = Annotated[str, typer.Argument(help="Adresse de la boîte / the mailbox's address.")]
CodeArgument = Annotated[
    str, typer.Argument(help="Identifiant du code : ses quatre premiers signes / its first four characters.")
]
SubjectArgument = Annotated[str, typer.Argument(help="Adresse d'une boîte, ou domaine / a mailbox, or a domain.")]
DaysOption = Annotated[int, typer.Option(help="Durée de vie en jours / life in days.", min=1, max=730)]


@code_app.command()
def issue(
    address: AddressArgument,
    days: DaysOption = 90,
    max_uses: Annotated[int, typer.Option(help="Nombre d'usages, 0 sans limite / uses, 0 for no limit.", min=0)] = 0,
    sender: Annotated[
        list[str] | None,
        typer.Option(
            help="Expéditeur permis, adresse ou *@domaine ; répétable / allowed sender. Défaut : la boîte seule."
        ),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Réseau d'origine permis (CIDR), répétable / allowed source network.")
    ] = None,
    to_domain: Annotated[
        list[str] | None, typer.Option(help="Domaine permis des destinataires, répétable / allowed recipients' domain.")
    ] = None,
    label: Annotated[str, typer.Option(help="Pour s'y retrouver : nom de la passerelle / a name to know it by.")] = "",
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Crée un code, montré cette seule fois / create a code, shown this once."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    try:
        scope = Scope.of(sender or (), network or (), to_domain or ())
    except BadScope as error:
        raise UsageError(f"portée / scope: {error}") from None
    issued = CodeDesk(store).issue(
        _account(store, address),
        at=now(),
        life=timedelta(days=days),
        max_uses=max_uses or None,
        scope=scope,
        label=label,
    )
    _shown(issued, address, as_json)


@code_app.command("list")
def list_codes(
    address: Annotated[str, typer.Argument(help="Adresse de la boîte ; toutes par défaut / all by default.")] = "",
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les codes, jamais leur secret / show the codes, never their secret."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    owners = {one.id: one.address for one in store.accounts()}
    rows = [
        {
            "code": one.code_id,
            "boîte": owners.get(one.account_id, ""),
            "nom": one.label,
            "état": _state(one),
            "expire": one.expires_at,
            "usages": one.uses,
            "limite": one.max_uses,
            "dernier": one.last_used_at,
            "révoqué": one.revoked_at,
            "portée": one.scope,
        }
        for one in store.send_codes(_account(store, address).id if address else None)
    ]
    show(rows, as_json=as_json)


@code_app.command()
def rotate(
    code_id: CodeArgument,
    days: DaysOption = 90,
    overlap: Annotated[
        int,
        typer.Option(help="Jours pendant lesquels l'ancien vaut encore / days the old one stays good.", min=0, max=90),
    ] = 7,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Remplace un code : mêmes limites, l'ancien s'éteint ensuite / replace a code, the old one ends later."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    old = _code(store, code_id)
    account = next(one for one in store.accounts() if one.id == old.account_id)
    issued = CodeDesk(store).rotate(old, account, at=now(), life=timedelta(days=days), overlap=timedelta(days=overlap))
    _shown(issued, account.address, as_json)


@code_app.command()
def revoke(code_id: CodeArgument, folder: FolderOption = Path()) -> None:
    """Révoque un code, aussitôt / revoke a code, at once."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    CodeDesk(store).revoke(_code(store, code_id).code_id, at=now())
    done(f"code {code_id.upper()} révoqué / revoked")


@code_app.command()
def reopen(address: AddressArgument, folder: FolderOption = Path()) -> None:
    """Rouvre une boîte fermée par cinq codes refusés / open again a mailbox closed by five refused codes."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    forgotten = CodeDesk(store).reopen(_account(store, address), at=now())
    done(f"{address} : {forgotten} refus oubliés / refusals forgotten")


@policy_app.command("show")
def show_policy(subject: SubjectArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre chaque règle en vigueur et d'où elle vient / show each policy in force and where it comes from."""
    settings = load_settings(folder)
    store = open_store(OperatorFolder(folder), settings)
    name = subject.strip().lower()
    if "@" not in name:
        _domain(name, settings.operator.domains)
        asked = store.policies((name,))[name]
        show(
            [{"règle": key, "valeur": value, "origine": f"domain {name}"} for key, value in asked.items()],
            as_json=as_json,
        )
        return
    account = _account(store, name)
    found = effective(
        account.address,
        account.kind,
        proxy_policy(settings),
        store.policies((account.address, account.address.rpartition("@")[2])),
    )
    rows = [{"règle": key, "valeur": getattr(found, key), "origine": origin} for key, origin in found.origins.items()]
    show(rows, as_json=as_json)


@policy_app.command("set")
def set_policy(
    subject: SubjectArgument,
    values: Annotated[
        list[str], typer.Argument(help="règle=valeur, comme sign=with_code ; vide pour hériter / empty to inherit.")
    ],
    folder: FolderOption = Path(),
) -> None:
    """Change des règles, aussitôt / change policies, at once."""
    settings = load_settings(folder)
    store = open_store(OperatorFolder(folder), settings)
    name = subject.strip().lower()
    if "@" in name:
        _account(store, name)
    else:
        _domain(name, settings.operator.domains)
    changes = [_change(one) for one in values]
    at = now()
    for key, value in changes:
        store.set_policy(name, key, value, at)
        store.record((Event("policy.changed", {"account": name, "rule": key, "value": value or "inherited"}),), at=at)
    done(f"{name}: " + ", ".join(f"{key} = {value or 'hérité / inherited'}" for key, value in changes))


def _change(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"« {text} » : écrire règle=valeur / write policy=value")
    try:
        # Without a value, any known one tells whether the policy itself is known.
        check_value(key, value or next(iter(VALUES.get(key, ())), ""))
    except BadPolicy as error:
        raise UsageError(str(error)) from None
    return key, value or None


def _state(code: SendCode) -> str:
    if code.revoked_at is not None:
        return "révoqué / revoked"
    if code.expires_at <= now():
        return "expiré / expired"
    if code.max_uses is not None and code.uses >= code.max_uses:
        return "épuisé / used up"
    return "en vigueur / in force"


def _shown(issued: IssuedCode, address: str, as_json: bool) -> None:
    if as_json:
        show([{"code": issued.code_id, "secret": issued.text, "expire": issued.expires_at}], as_json=True)
        return
    done(
        f"code {issued.code_id} pour / for {address}, jusqu'au / until {issued.expires_at:%d/%m/%Y}. À mettre dans le champ "
        f"{CODE_FIELD}, ou entre crochets au début du sujet / put it in that field, or in brackets before the subject:"
    )
    typer.echo(issued.text)


def _code(store: Store, code_id: str) -> SendCode:
    for one in store.send_codes():
        if one.code_id == code_id.strip().upper():
            return one
    raise UsageError(f"{code_id}: code inconnu. « caducee proxy code list » les montre / unknown code")


def _account(store: Store, address: str) -> Account:
    account = store.find_account(address)
    if account is None:
        raise UsageError(f"{address}: boîte inconnue. « caducee account list » les montre / unknown mailbox")
    return account


def _domain(name: str, domains: tuple[str, ...]) -> None:
    if name not in domains:
        raise UsageError(f"{name}: domaine inconnu ici ({', '.join(domains)}) / not one of our domains")
