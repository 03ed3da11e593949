"""`python -m caducee.serve FOLDER`: the supervisor, in a process that holds little more than itself.

`caducee serve` becomes this program (exec), so that the one process that must never fail does not carry every room.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from caducee.child import die_with_parent
from caducee.errors import UsageError
from caducee.figures import begin_figures
from caducee.folder import OperatorFolder
from caducee.logs import configure_logs
from caducee.ports import check_ports
from caducee.processes import child_specs
from caducee.settings import SettingsError, load_settings
from caducee.sockets import Sockets, close_sockets, open_sockets
from caducee.supervisor import CONFIGURATION_ERROR, Supervisor
from directory import DirectoryError


def main(root: Path) -> int:
    """Serve the operator of `root` until SIGTERM or Ctrl-C. Returns the exit code."""
    die_with_parent()
    try:
        settings = load_settings(root)
        configure_logs(settings.logs.level, settings.logs.format)
        check_ports(settings)
        folder = OperatorFolder(root)
        sockets: Sockets = open_sockets(settings) if settings.services.mail else {}
        begin_figures(folder.metrics)
        specs = child_specs(folder, settings, sockets)
        if not specs:
            raise UsageError("[services]: aucun service demandé / no service asked for")
        return asyncio.run(Supervisor(specs, on_state=_tell, on_stop=lambda: close_sockets(sockets)).run())
    except (SettingsError, UsageError, DirectoryError) as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"caducee: {line}\n")
        return CONFIGURATION_ERROR
    except OSError as error:
        sys.stderr.write(f"caducee: {root}: {error.strerror or type(error).__name__}\n")
        return CONFIGURATION_ERROR


def _tell(service: str, state: str, pid: int) -> None:
    # Whoever read this may be gone; the services stay.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{service or 'caducee'} {state} {pid or ''}".rstrip() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
