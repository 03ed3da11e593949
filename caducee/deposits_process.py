"""The process that deposits documents: a Celery worker over the broker of this folder, the rows being the truth; and,
beside it, the rounds that tell senders, send reminders, and hand acknowledgements to hospitals' software."""

from __future__ import annotations

import ssl
import threading
import warnings
from datetime import timedelta

import structlog
from celery.exceptions import SecurityWarning
from prometheus_client import REGISTRY, start_http_server

from caducee.bridge_parts import acknowledgement_place, feeds_out, make_outlet, open_register
from caducee.child import say_ready
from caducee.folder import OperatorFolder
from caducee.monitor import Gauges
from caducee.settings import Settings
from caducee.sharing import worker_name
from caducee.trust_parts import open_trust, own_certificate
from caducee.wiring import now, open_store
from dmp_bridge import Depositor, make_app, metrics, run_worker
from dmp_bridge.mllp import MllpError, send
from dmp_bridge.register import Register, RegisterUnavailable
from dmp_bridge.tell import Teller, Voice
from ihe.hl7v2 import Hl7Error
from mailstore import Store, StoreError
from trustspace import Purpose, client_tls
from trustspace.metrics import Sample

_ROUND_SECONDS = 1.0
_GIVE_UP_ATTEMPTS = 200


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Work until SIGTERM."""
    store = open_store(folder, settings)
    worker = worker_name(settings, "deposits")
    store.release_leases(worker)
    register = open_register(folder, settings)
    teller = Teller(
        store,
        register,
        hostname=settings.operator.hostname,
        voice=Voice(settings.dmp.tell),
        feeds=feeds_out(settings),
        errors=settings.dmp.error_mailbox.lower(),
    )
    depositor = Depositor(store, make_outlet(folder, settings), tell=teller, owner=worker, clock=now)
    app = make_app(folder.broker)
    rounds = _Rounds(folder, settings, store, register, teller)
    # Celery warns root of pickled messages; ours are JSON, and hold a row's number.
    warnings.simplefilter("ignore", SecurityWarning)
    rounds.start()
    if settings.listen.deposits_monitor:
        REGISTRY.register(Gauges(lambda: _figures(store)))
        start_http_server(settings.listen.deposits_monitor, addr="127.0.0.1")
    say_ready()
    run_worker(app, depositor)
    rounds.stop()
    register.close()
    store.close()


def _figures(store: Store) -> list[Sample]:
    """How many deposits stand in each state, asked for at each scrape; none when the store does not answer."""
    try:
        counted = store.count_deposits()
    except StoreError:
        return []
    help_text = "Deposits, by state"
    return [Sample("caducee_deposits", help_text, number, {"state": one.value}) for one, number in counted.items()]


class _Rounds:
    """What is looked at every second, in a thread of its own: held documents, reminders, acknowledgements."""

    def __init__(
        self, folder: OperatorFolder, settings: Settings, store: Store, register: Register, teller: Teller
    ) -> None:
        self._register = register
        self._teller = teller
        self._places = {
            name: acknowledgement_place(feed) for name, feed in settings.hl7.feeds.items() if feed.acknowledgements
        }
        self._tls: ssl.SSLContext | None = None
        if self._places and settings.hl7.tls:
            trust = open_trust(folder, settings)
            self._tls = client_tls(trust, own_certificate(folder), Purpose.DMP)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._teller.held()
                self._teller.remind(now())
                self._teller.receipts(now())
                self._acknowledge()
            except (StoreError, RegisterUnavailable) as error:
                structlog.get_logger().warning("rounds put off", error=type(error).__name__)
            except Exception as error:
                structlog.get_logger().error("rounds failed by a defect", error=type(error).__name__)
            self._stop.wait(_ROUND_SECONDS)

    def _acknowledge(self) -> None:
        """Hand over what is due; a feed that does not answer is asked again later, its order is kept by the next round."""
        blocked: set[str] = set()
        for due in self._register.due_acknowledgements(now()):
            if due.feed in blocked:
                continue
            place = self._places.get(due.feed)
            if place is None:
                self._register.acknowledged(due.id, now(), "flux inconnu / unknown feed")
                continue
            try:
                code, _ = send(*place, due.content, tls=self._tls)
            except (OSError, MllpError, Hl7Error, ssl.SSLError) as error:
                code = type(error).__name__
            taken = {"AA": "taken", "AE": "refused"}.get(code, "later")
            metrics.ACKNOWLEDGEMENTS.labels(taken).inc()
            if code == "AA":
                self._register.acknowledged(due.id, now())
            elif code == "AE" or due.attempts >= _GIVE_UP_ATTEMPTS:
                self._register.acknowledged(due.id, now(), f"refusé / refused: {code}")
            else:
                blocked.add(due.feed)
                pause = min(timedelta(seconds=5) * (1 << min(due.attempts, 10)), timedelta(hours=1))
                self._register.acknowledge_later(due.id, now() + pause, code)
