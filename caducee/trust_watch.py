"""The background work of the trust space in the mail process: downloads, and saying aloud what ages or fails.

Invariants: nothing that the network does stops the process; what is wrong is said when it begins, again at each hour
that it lasts, and once when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime

import structlog

from caducee.folder import OperatorFolder
from caducee.wiring import now
from directory import DirectoryError, DirectoryUnavailable, Slapd
from trustspace import Freshness, Refresher, TrustSpace
from trustspace.downloads import read_downloads
from trustspace.enrolment import Level, statuses
from trustspace.metrics import Sample, samples
from trustspace.refresher import Result

_TICK_SECONDS = 15.0
_WATCH_SECONDS = 60.0
_REMIND_SECONDS = 3600.0


async def refresh_trust(refresher: Refresher, stop: asyncio.Event) -> None:
    """Download what is due, until `stop`."""
    while not stop.is_set():
        try:
            outcomes = await asyncio.to_thread(refresher.tick, now())
        except OSError as error:
            structlog.get_logger().error("trust folder not written", error=error.strerror)
        else:
            for one in outcomes:
                log = structlog.get_logger()
                good = one.result in {Result.NEW, Result.UNCHANGED}
                say = log.error if not good else log.info if one.result is Result.NEW else log.debug
                say("trust download", service=one.kind.value, url=one.url, state=one.result.value, reason=one.detail)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _TICK_SECONDS)


async def renew_directory_trust(slapd: Slapd, stop: asyncio.Event) -> None:
    """Give the private directory the authorities and revocations of the trust space that are new, until `stop`.

    A directory that is down meets them when it starts.
    """
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)
            return
        try:
            if await asyncio.to_thread(slapd.reload_trust):
                structlog.get_logger().info("directory authorities renewed")
        except DirectoryUnavailable:
            continue
        except (DirectoryError, OSError) as error:
            structlog.get_logger().error("directory authorities not renewed", error=type(error).__name__)


async def watch_trust(folder: OperatorFolder, trust: TrustSpace, stop: asyncio.Event) -> None:
    """Say in the logs when the white list ages, a file was refused, or one of our certificates ends."""
    said: dict[str, tuple[str, float]] = {}
    while not stop.is_set():
        for subject, trouble in (await asyncio.to_thread(troubles, folder, trust, now())).items():
            _say(subject, trouble, said)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)


def troubles(folder: OperatorFolder, trust: TrustSpace, at: datetime) -> dict[str, str]:
    """What is wrong at `at` by subject, "" when nothing is."""
    state = trust.state(at)
    listed = "; ".join(state.alarms.values()) or ("" if state.freshness is Freshness.FRESH else state.freshness.value)
    late = [name for name, end in state.crl_ends.items() if end is None or end <= at]
    found = {"white list": listed, "crl": f"out of date: {', '.join(late)}" if late else ""}
    for own in statuses(folder.keys, None, at):
        text = f"ends {own.ends:%Y-%m-%d} ({own.days_left} d)"
        found[f"certificate {own.name}"] = "" if own.level is Level.FINE else text
    return found


def trust_figures(folder: OperatorFolder, trust: TrustSpace, at: datetime) -> list[Sample]:
    """The trust space and our certificates in figures, at `at`."""
    return samples(trust.state(at), read_downloads(trust.folder), statuses(folder.keys, None, at), at)


def _say(subject: str, trouble: str, said: dict[str, tuple[str, float]]) -> None:
    before, when = said.get(subject, ("", float("-inf")))
    if trouble == before and (not trouble or time.monotonic() - when < _REMIND_SECONDS):
        return
    log = structlog.get_logger()
    (log.error if trouble else log.info)(subject, reason=trouble)
    said[subject] = (trouble, time.monotonic())
