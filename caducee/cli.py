"""The `caducee` command. Every error a person can mend is one line on stderr and exit code 2; never a traceback."""

from __future__ import annotations

import errno
import secrets
import sys

import structlog
import typer

from caducee.commands.catalogue import LazyGroup
from caducee.errors import UsageError
from caducee.logs import configure_logs

app = typer.Typer(name="caducee", cls=LazyGroup, pretty_exceptions_enable=False, rich_markup_mode="rich")
_SYSTEM = {
    errno.ENOSPC: "plus de place sur le disque / no space left on disk",
    errno.EADDRINUSE: "port déjà pris / port already in use",
    errno.EACCES: "accès refusé / permission denied",
    errno.ENOENT: "fichier ou programme absent / missing file or program",
}


@app.callback(no_args_is_help=True)
def caducee() -> None:
    """Opérateur de messagerie sécurisée de santé / secure health messaging operator.

    Pour voir le tout fonctionner / to see it all work: [bold]caducee demo[/bold].
    Pour créer un opérateur / to create an operator: [bold]caducee init DOSSIER --practice[/bold].
    """


def _for_people(error: Exception) -> bool:
    """Whether an error's text was written for whoever typed the command. The rooms are imported only to know their errors."""
    from caducee.settings import SettingsError
    from directory import DirectoryError
    from mailstore import StoreError
    from trustspace import TrustSpaceError

    return isinstance(error, UsageError | SettingsError | StoreError | DirectoryError | TrustSpaceError)


def main() -> None:
    """Entry point of the command."""
    configure_logs("warning", "console")
    try:
        app(standalone_mode=True)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _fail(named + _SYSTEM.get(error.errno or 0, error.strerror or type(error).__name__))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _for_people(error):
            _fail(str(error))
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
