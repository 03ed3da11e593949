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
from caducee.folder import OperatorFolder
from caducee.logs import configure_logs
from caducee.ports import check_ports
from caducee.processes import child_specs
from caducee.settings import SettingsError, load_settings
from caducee.supervisor import CONFIGURATION_ERROR, Supervisor
from directory import DirectoryError


def main(root: Path) -> int:
    """Serve the operator of `root` until SIGTERM or Ctrl-C. Returns the exit code."""
    die_with_parent()
    try:
        settings = load_settings(root)
        configure_logs(settings.logs.level, settings.logs.format)
        specs = child_specs(OperatorFolder(root), settings)
        if not specs:
            raise UsageError("[services]: aucun service demandé / no service asked for")
        check_ports(settings)
        return asyncio.run(Supervisor(specs, on_state=_tell).run())
    except (SettingsError, UsageError, DirectoryError) as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"caducee: {line}\n")
        return CONFIGURATION_ERROR


def _tell(service: str, state: str, pid: int) -> None:
    # Whoever read this may be gone; the services stay.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{service or 'caducee'} {state} {pid or ''}".rstrip() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
