"""The `caducee` command. Every error a person can mend is one line on stderr and exit code 2; never a traceback."""

from __future__ import annotations

import errno
import secrets
import sys

import structlog
import typer

from caducee.commands import (
    accounts,
    agent,
    card,
    cert,
    client,
    config,
    delegation,
    demo,
    deposits,
    directory,
    keys,
    mailbox,
    master_key,
    operator,
    pki,
    proxy,
    queue,
    smime,
    tls,
    trace,
    trust,
    trust_publish,
    xdm,
)
from caducee.errors import UsageError
from caducee.logs import configure_logs
from caducee.settings import SettingsError
from directory import DirectoryError
from mailstore import StoreError
from trustspace import TrustSpaceError

app = typer.Typer(
    name="caducee",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Opérateur de messagerie sécurisée de santé / secure health messaging operator.\n\n"
    "Pour voir le tout fonctionner / to see it all work: [bold]caducee demo[/bold]. "
    "Pour créer un opérateur / to create an operator: [bold]caducee init DOSSIER --practice[/bold].",
)
app.command("init")(operator.init)
app.command("serve")(operator.serve)
app.command("demo")(demo.demo)
app.command("send")(client.send)
app.command("inbox")(client.inbox)
app.command("trace")(trace.trace)
app.command("refusals")(trace.refusals)
app.add_typer(queue.app, name="queue")
app.add_typer(tls.app, name="tls")
app.add_typer(delegation.app, name="delegation")
app.add_typer(config.app, name="config")
app.add_typer(accounts.app, name="account")
app.add_typer(mailbox.app, name="mailbox")
keys.app.command("rotate-master")(master_key.rotate_master)
keys.app.command("rewrap")(master_key.rewrap)
app.add_typer(keys.app, name="keys")
app.add_typer(proxy.app, name="proxy")
app.add_typer(agent.app, name="agent")
app.add_typer(card.app, name="card")
app.add_typer(pki.app, name="pki")
app.add_typer(smime.app, name="smime")
trust.app.command("publish")(trust_publish.publish_list)
app.add_typer(trust.app, name="trust")
app.add_typer(cert.app, name="cert")
app.add_typer(directory.app, name="directory")
app.add_typer(deposits.app, name="deposits")
app.add_typer(deposits.dossier_app, name="dossier")
app.add_typer(xdm.app, name="xdm")

_FOR_PEOPLE = (UsageError, SettingsError, StoreError, DirectoryError, TrustSpaceError)
_SYSTEM = {
    errno.ENOSPC: "plus de place sur le disque / no space left on disk",
    errno.EADDRINUSE: "port déjà pris / port already in use",
    errno.EACCES: "accès refusé / permission denied",
    errno.ENOENT: "fichier ou programme absent / missing file or program",
}


def main() -> None:
    """Entry point of the command."""
    configure_logs("warning", "console")
    try:
        app(standalone_mode=True)
    except _FOR_PEOPLE as error:
        _fail(str(error))
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _fail(named + _SYSTEM.get(error.errno or 0, error.strerror or type(error).__name__))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        reference = secrets.token_hex(4)
        structlog.get_logger().exception("unexpected", reference=reference)
        typer.echo(
            f"caducee: erreur inattendue, référence {reference} / unexpected error, reference {reference}", err=True
        )
        sys.exit(1)


def _fail(text: str) -> None:
    for line in text.splitlines():
        typer.echo(f"caducee: {line}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
