"""`python -m caducee.process ROLE FOLDER [NUMBER]`: one process of an operator, started by the supervisor.

Configuration errors end it with code 2 and one line; anything else is restarted by the supervisor.
"""

from __future__ import annotations

import errno
import gc
import importlib
import sys
from pathlib import Path

from caducee.child import die_with_parent
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.logs import configure_logs
from caducee.processors import keep_to_processor
from caducee.settings import SettingsError, load_settings
from caducee.supervisor import CONFIGURATION_ERROR
from directory import DirectoryError
from mailstore import StoreError
from trustspace import TrustSpaceError

_MODULES = {
    "mail": "caducee.mail_process",
    "smtp": "caducee.smtp_process",
    "deposits": "caducee.deposits_process",
    "record": "caducee.record_process",
}


def main(argv: list[str]) -> int:
    """Run the process named by `argv` (role, folder, its number among those of its role). Returns its exit code."""
    die_with_parent()
    keep_to_processor()
    role, folder, *number = argv
    try:
        settings = load_settings(Path(folder))
        configure_logs(settings.logs.level, settings.logs.format)
        run = importlib.import_module(_MODULES[role]).run
        # What start-up made lives as long as the process: keep the collector off it (less memory touched, fewer pauses).
        gc.freeze()
        run(OperatorFolder(Path(folder)), settings, *map(int, number))
    except (UsageError, SettingsError, StoreError, DirectoryError, TrustSpaceError) as error:
        return _refuse(role, str(error))
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL}:
            return _refuse(role, str(error.strerror or error))
        raise
    return 0


def _refuse(role: str, text: str) -> int:
    for line in text.splitlines():
        sys.stderr.write(f"caducee {role}: {line}\n")
    return CONFIGURATION_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
