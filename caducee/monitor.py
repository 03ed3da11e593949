"""What watches the mail process: /metrics for Prometheus, /healthz (it answers), /readyz (it can do its work).

Invariants: plain HTTP, bound to the machine itself; figures and names of parts only, never an address or a domain.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from caducee.figures import METRICS
from caducee.wiring import now
from mailstore import Store, StoreError
from trustspace import Freshness, TrustSpace
from trustspace.metrics import Sample


def readiness(store: Store, trust: TrustSpace, listening: Callable[[], bool]) -> dict[str, str]:
    """What each part says; "ok" when it can do its work. Blocking, never raises."""
    parts = {"listeners": "ok" if listening() else "not listening"}
    try:
        store.queue_sizes()
        parts["store"] = "ok"
    except StoreError:
        parts["store"] = "unavailable"
    state = trust.freshness(now())
    parts["white_list"] = "ok" if state in (Freshness.FRESH, Freshness.AGEING) else state.value
    return parts


class Gauges:
    """Samples as prometheus-client collects them: asked for at each scrape, so that none is ever stale."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """One family for each name."""
        families: dict[str, GaugeMetricFamily] = {}
        for one in self._read():
            family = families.setdefault(one.name, GaugeMetricFamily(one.name, one.help, labels=list(one.labels)))
            family.add_metric(list(one.labels.values()), one.value)
        return iter(families.values())


def monitor_app(
    store: Store, trust: TrustSpace, listening: Callable[[], bool], gauges: Callable[[], Iterable[Sample]]
) -> Starlette:
    """The application of `listen.monitor`; `gauges` gives the figures of the trust space, and may block."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Gauges(gauges))
    if METRICS in os.environ:
        # Several processes share the work: their figures are read together, and this one's own memory and time beside.
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        ProcessCollector(registry=registry)

    def figures() -> bytes:
        return generate_latest(registry) if METRICS in os.environ else generate_latest() + generate_latest(registry)

    async def metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(figures), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        parts = await asyncio.to_thread(readiness, store, trust, listening)
        return JSONResponse(parts, 200 if set(parts.values()) == {"ok"} else 503)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])
