"""SMTP measured beside Debian's Postfix, in one run on one disk, driven by Postfix's own smtp-source.

    .venv/bin/python -m bench.smtp [--json] [--small 2000] [--large 40] [--sessions 1000] [--relay 2000]

Rows: small durable messages a second; octets a second of 10 MB messages; processor time of each; memory of an open TLS session;
extra memory of one 100 MB message; rate of relaying. Postfix accepts into its own queue (fsync) and discards; we accept into the
store (sync, one transaction) for a local mailbox, with the reception rules but TLS (smtp-source has none), and nothing to open.
Relaying goes to the same sink, in a process of its own, over mutual TLS. Needs postfix and root (Postfix drops its rights by
itself). Our side has as many processes as in production by default; Postfix takes as many as it has sessions. Memory is of one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import multiprocessing
import multiprocessing.sharedctypes
import multiprocessing.synchronize
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding

from bench.smtp_peers import MB, drive, postfix, sink, wait_greeting
from caducee.processors import keep_to_processor, processor_of
from caducee.sharing import MOST, share
from mailstore import Acceptance, Direction, OutgoingCopy
from smtp import DecidingContext, Kind, Limits, Listen, SenderSettings, SmtpServers
from smtp.listening import bound
from tests.smtp.world import World, build, free_port, make_template, message, reopen
from trustspace import Issued

_Ready = multiprocessing.synchronize.Semaphore


PROCESSES = min(MOST, len(os.sched_getaffinity(0)))
"""As many as `smtp.processes` has by default."""


def _limits(size: int) -> Limits:
    return Limits(size=size, connections=5000, connections_per_address=5000, peer_messages=10**9)


def _world(folder: Path, size: int) -> World:
    make_template(folder / "template")
    return build(folder / "template", folder / "world", limits=_limits(size))


def _on_processor(number: int) -> None:
    """As the processes of `caducee serve`."""
    os.environ.update(processor_of(number))
    keep_to_processor()


def _serve(folder: str, size: int, listening: socket.socket, ready: _Ready, tls: bool, number: int) -> None:
    """One process: reception in clear, every client taken for the listed operator B; or submission under TLS."""
    from smtp import shell

    _on_processor(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    a = reopen(Path(folder) / "world", "a", _limits(size))
    certificate = Issued.read(*(Path(folder) / "world" / "b" / f"operator.{end}" for end in ("pem", "key"))).certificate
    begun = shell.Shell.connection_made

    def known(self: shell.Shell, transport: asyncio.BaseTransport) -> None:
        begun(self, transport)
        self.talk.certificate = certificate

    shell.Shell.connection_made = known  # type: ignore[method-assign]

    async def main() -> None:
        listen = Listen(Kind.RECEPTION, "", 0, None, require_tls=False, sockets=[listening])
        if tls:
            own = DecidingContext.build(a.certificate.chain, a.certificate.key)
            listen = Listen(Kind.SUBMISSION_TLS, "", 0, own, sockets=[listening])
        servers = SmtpServers(a.services, [listen])
        await servers.start()
        gc.freeze()  # as every process of `caducee serve`
        ready.release()
        await asyncio.Event().wait()

    uvloop.run(main())


@contextmanager
def ours(size: int, *, tls: bool = False, processes: int = PROCESSES) -> Iterator[tuple[int, list[int]]]:
    """(port, pids) of our reception, or of our submission under TLS."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        world = _world(Path(folder), size)
        for operator in (world.a, world.b):
            operator.store.close()
        context = multiprocessing.get_context("spawn")
        (listening,) = bound("127.0.0.1", 0)
        ready = context.Semaphore(0)
        started = [
            context.Process(target=_serve, args=(folder, size, listening, ready, tls, number), daemon=True)
            for number in range(processes)
        ]
        for process in started:
            process.start()
        try:
            if not all(ready.acquire(timeout=60) for _ in started):
                raise RuntimeError("our listener did not start")
            yield listening.getsockname()[1], [process.pid or 0 for process in started]
        finally:
            listening.close()
            for process in started:
                process.kill()
                process.join()


def rss(pid: int, *, peak: bool = False) -> float:
    """KiB of a process."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    return float(Path(f"/proc/{pid}/status").read_text().partition(wanted)[2].split()[0])


def processor(pids: list[int]) -> float:
    """Seconds of processor that processes used; other work on the machine does not disturb it."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def cost(count: int, size: int, sessions: int) -> float:
    """Milliseconds of our processors for each message."""
    with ours(30 * MB) as (port, pids):
        drive(port, sessions, size, sessions)
        before = processor(pids)
        drive(port, count, size, sessions)
        return (processor(pids) - before) * 1000 / count


def small(count: int) -> tuple[float, float]:
    """4 KB messages a second over 20 connections: ours, Postfix's."""
    with ours(30 * MB) as (port, _):
        drive(port, 100, 4096, 20)
        mine = count / drive(port, count, 4096, 20)
    with postfix(30 * MB) as (port, _):
        drive(port, 100, 4096, 20)
        theirs = count / drive(port, count, 4096, 20)
    return mine, theirs


def large(count: int) -> tuple[float, float]:
    """MB a second of 10 MB messages over 4 connections."""
    with ours(30 * MB) as (port, _):
        drive(port, 4, 10 * MB, 4)
        mine = count * 10 / drive(port, count, 10 * MB, 4)
    with postfix(30 * MB) as (port, _):
        drive(port, 4, 10 * MB, 4)
        theirs = count * 10 / drive(port, count, 10 * MB, 4)
    return mine, theirs


def one_big() -> float:
    """Extra MiB at the peak of one 100 MB message."""
    with ours(120 * MB, processes=1) as (port, (pid,)):
        drive(port, 10, 4096, 1)
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak so far is the start-up's, not the message's
        before = rss(pid)
        drive(port, 1, 100 * MB, 1)
        return (rss(pid, peak=True) - before) / 1024


def sessions(count: int) -> float:
    """KiB of each open TLS session (handshake done, greeted, idle)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ours(30 * MB, tls=True, processes=1) as (port, (pid,)):
        held = [_session(port, context) for _ in range(20)]  # what is allocated once is no session's
        before = rss(pid)
        held += [_session(port, context) for _ in range(count)]
        return (rss(pid) - before) / count


def _session(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    one = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
    one.recv(1000)
    one.sendall(b"EHLO x\r\n")
    one.recv(1000)
    return one


def relay(count: int) -> tuple[float, float]:
    """Messages a second relayed to one peer over mutual TLS: ours, Postfix's (connections reused by both)."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as text:
        folder = Path(text)
        world = _world(folder, 30 * MB)
        chain, key = world.b.certificate.write(folder, "sink")
        context = multiprocessing.get_context("fork")
        port, got = free_port(), context.Value("i", 0)
        taking = context.Process(target=sink, args=(port, str(chain), str(key), got), daemon=True)
        taking.start()
        wait_greeting(port)
        mine = _relay_ours(folder, world, port, count, lambda: got.value)
        got.value = 0
        own_chain, own_key = world.a.certificate.write(folder, "own")
        roots = folder / "roots.pem"
        pem = b"".join(
            one.public_bytes(Encoding.PEM)
            for one in (*world.a.services.trust.anchors.roots, *world.a.services.trust.anchors.intermediates)
        )
        roots.write_bytes(pem)
        options = {
            "default_transport": "smtp",
            "relayhost": f"[127.0.0.1]:{port}",
            "smtp_tls_security_level": "secure",
            "smtp_tls_secure_cert_match": "mss.b.test",
            "smtp_tls_CAfile": str(roots),
            "smtp_tls_cert_file": str(own_chain),
            "smtp_tls_key_file": str(own_key),
            "smtp_tls_connection_reuse": "yes",
            "smtp_destination_concurrency_limit": "20",
            "defer_transports": "smtp",
        }
        with postfix(30 * MB, **options) as (smtpd, queue):
            drive(smtpd, count, 4096, 20)
            config = queue.parent / "etc"
            subprocess.run(["postconf", "-c", str(config), "-e", "defer_transports="], check=True)
            subprocess.run(["postfix", "-c", str(config), "reload"], check=True, capture_output=True)
            begin = time.perf_counter()
            subprocess.run(["postqueue", "-c", str(config), "-f"], check=False, capture_output=True)
            limit = time.monotonic() + 120
            while got.value < count and time.monotonic() < limit:
                time.sleep(0.02)
            theirs = got.value / (time.perf_counter() - begin)
            if got.value < count:
                print((queue.parent / "log").read_text()[-2000:], file=sys.stderr)
        taking.kill()
        taking.join()
        return mine, theirs


def _send(folder: str, port: int, number: int, ready: _Ready, go: _Ready) -> None:
    """One process of the sender, as the mail processes have it."""
    _on_processor(number)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    a = reopen(Path(folder) / "world", "a", _limits(30 * MB))

    async def run() -> None:
        sender = a.sender({"b.mssante.fr": f"127.0.0.1:{port}"}, owner=f"sender-{number}")
        sender._settings = SenderSettings(connections=share(5, PROCESSES, number))
        gc.freeze()
        ready.release()
        await asyncio.to_thread(go.acquire)
        await sender.run()

    uvloop.run(run())


def _queue(world: World, count: int) -> None:
    """Put messages for B in the queue."""
    recipients = ("bob@b.mssante.fr",)
    for start in range(0, count, 64):
        group = []
        for number in range(start, min(start + 64, count)):
            content = message("alice@a.mssante.fr", "x", body="x" * 70 + "\r\n" * 50, message_id=f"n{number}@bench")
            group.append(
                Acceptance(
                    direction=Direction.SUBMISSION,
                    principal="alice@a.mssante.fr",
                    mail_from="alice@a.mssante.fr",
                    recipients=recipients,
                    message_id=f"<n{number}@bench>",
                    received=content,
                    outgoing=(OutgoingCopy(recipients, content),),
                )
            )
        world.a.store.accept_all(group, world.clock.now)


def _relay_ours(folder: Path, world: World, port: int, count: int, done: Callable[[], int]) -> float:
    _queue(world, count)
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    started = [
        context.Process(target=_send, args=(str(folder), port, number, ready, go), daemon=True)
        for number in range(1, PROCESSES + 1)
    ]
    for process in started:
        process.start()
    try:
        if not all(ready.acquire(timeout=60) for _ in started):
            raise RuntimeError("our sender did not start")
        begin = time.perf_counter()
        for _ in started:
            go.release()
        limit = time.monotonic() + 120
        while (done() < count or world.a.store.queue_sizes()["queued"]) and time.monotonic() < limit:
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
    finally:
        for process in started:
            process.kill()
            process.join()
    if done() != count:
        raise RuntimeError(f"{done()} of {count} arrived")
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--small", type=int, default=2000, help="4 KB messages")
    parser.add_argument("--large", type=int, default=40, help="10 MB messages")
    parser.add_argument("--sessions", type=int, default=1000, help="open sessions")
    parser.add_argument("--relay", type=int, default=2000, help="messages relayed")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    beside: list[tuple[str, Callable[[], tuple[float, float]], str]] = [
        (f"4 KB messages/s, 20 connections, {PROCESSES} processes", lambda: small(options.small), "ratio >= 1"),
        (f"10 MB messages, MB/s, 4 connections, {PROCESSES} processes", lambda: large(options.large), ">= 150"),
        (f"relayed messages/s, mutual TLS, {PROCESSES} processes", lambda: relay(options.relay), "ratio >= 1"),
    ]
    for name, measure, target in beside:
        mine, theirs = measure()
        rows[name] = {"caducee": round(mine, 1), "postfix": round(theirs, 1), "ratio": round(mine / theirs, 2)}
        print(f"{name:48} {mine:9.1f} {theirs:9.1f} {mine / theirs:6.2f}  {target}", file=sys.stderr)
    rows["4 KB message, processor ms"] = {"caducee": round(cost(options.small, 4096, 20), 2)}
    rows["10 MB message, processor ms"] = {"caducee": round(cost(options.large, 10 * MB, 4), 1), "target": 66.7}
    rows["one 100 MB message, extra MiB"] = {"caducee": round(one_big(), 1), "target": 30}
    rows["open TLS session, KiB"] = {"caducee": round(sessions(options.sessions), 1), "target": 60}
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:48} " + "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
