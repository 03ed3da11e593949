"""The process that deposits documents: a Celery worker over the broker of this folder, the rows being the truth."""

from __future__ import annotations

import warnings

from celery.exceptions import SecurityWarning

from caducee.child import say_ready
from caducee.folder import DMP_AUTHENTICATION, DMP_SIGNATURE, OperatorFolder
from caducee.settings import Settings
from caducee.wiring import now, open_store, open_trust
from dmp_bridge import Depositor, DmpOutlet, make_app, run_worker
from ihe.vihf import VihfSettings
from trustspace import Issued, client_context

WORKER = "deposits"
"""Owner of the leases of deposits; see `caducee.mail_process.SENDER`."""


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Work until SIGTERM."""
    store = open_store(folder, settings)
    store.release_leases(WORKER)
    depositor = Depositor(store, _outlet(folder, settings), owner=WORKER, clock=now)
    app = make_app(folder.broker)
    # Celery warns root of pickled messages; ours are JSON, and hold a row's number.
    warnings.simplefilter("ignore", SecurityWarning)
    say_ready()
    run_worker(app, depositor)
    store.close()


def _outlet(folder: OperatorFolder, settings: Settings) -> DmpOutlet:
    trust = open_trust(folder, settings)
    authentication = (folder.keys / f"{DMP_AUTHENTICATION}.pem", folder.keys / f"{DMP_AUTHENTICATION}.key")
    signature = Issued.read(folder.keys / f"{DMP_SIGNATURE}.pem", folder.keys / f"{DMP_SIGNATURE}.key")
    return DmpOutlet(
        url=f"{settings.dmp.url.rstrip('/')}/repository",
        tls=client_context(*authentication, trust.anchors, check_hostname=True),
        key=signature.key,
        chain=signature.chain,
        source_id=settings.dmp.source_id,
        software=VihfSettings(homologation_id=settings.dmp.homologation),
    )
