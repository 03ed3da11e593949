"""A deposit worker as a process of its own, for the tests that kill it: `python -m tests.dmp_bridge.worker_main FOLDER`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

from dmp_bridge import Depositor, make_app, run_worker
from tests.dmp_bridge.bridge import MASTER_KEY, open_mailstore, outlet
from trustspace import Anchors, Issued


def main(folder: Path) -> int:
    """Read `worker.json` in `folder` and work."""
    settings = json.loads((folder / "worker.json").read_text())
    peer = Issued.read(folder / "peer.pem", folder / "peer.key")
    signer = Issued.read(folder / "signer.pem", folder / "signer.key")
    anchors = Anchors.load(Path(settings["trust"]))
    store = open_mailstore(folder, MASTER_KEY)
    way = outlet(settings["url"], peer, signer, anchors, timeout=settings["timeout"])
    depositor = Depositor(store, way, lease=timedelta(seconds=settings["lease"]))
    return run_worker(make_app(folder / "broker"), depositor, pool=settings["pool"], concurrency=2)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
