"""The bridge, measured: `python -m bench.dmp_bridge --help`.

* `one`: a 2 MB level 3 CDA in an IHE_XDM.zip, found, checked (header rules; the schema when its folder is given), metadata
  built, signed, sent to nobody: CPU time. `signatures`: our VIHF, whole, beside signxml's signature of the same assertion alone.
* `flow`: deposits a second, sustained, from the mail store's rows to the embedded record in a process of its own, over mutual TLS.
* `archive`: peak memory of a 25 MB archive.
* `queue`: a queue of many rows: a page, a count, a lease at both ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from caducee.processors import keep_to_processor, processor_of
from dmp_bridge import Depositor, Desk, plan_deposits
from dmp_bridge.exchange import Answer
from dmp_bridge.understand import Schema
from dmp_bridge.worker import BATCH, THREADS
from ihe.samples import Section, make_n3, synthetic_author, synthetic_patient, synthetic_structure
from ihe.values import Code
from ihe.vihf import VihfContent, build_vihf
from mailstore.model import Acceptance, DepositState, Direction
from tests.dmp_bridge.bridge import context, message, open_mailstore, outlet, package, xml
from tests.dossier.house import STRUCTURE, Trust, make_cda

AUTHOR = synthetic_author("899900000019", "EXEMPLE", "Alice")
HOSPITAL = synthetic_structure(STRUCTURE, "HOPITAL DE TEST")


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def big_n3(size: int) -> bytes:
    """A level 3 document of about `size` bytes."""
    paragraph = "Le patient présente un état général conservé, sans signe de gravité. " * 4
    number = max(1, size // (len(paragraph.encode()) + 24) // 40)
    sections = [
        Section(Code("10164-2", "2.16.840.1.113883.6.1", "Histoire"), f"Partie {place}", (paragraph,) * number)
        for place in range(40)
    ]
    return make_n3(synthetic_patient(1), AUTHOR, HOSPITAL, at=now(), sections=sections)


def cpu(work: Callable[[], object], times: int) -> float:
    """Milliseconds of CPU a call, the best of `times`."""
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best * 1000


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Nowhere:
    """An exchange that takes the whole request and answers success, so that only our own work is counted."""

    def request(self, method: str, url: str, *, headers: object, content: bytes, seconds: float) -> Answer:
        """Read every byte."""
        assert len(content) > 0
        return Answer(200, "application/soap+xml", b"")


def one(arguments: argparse.Namespace, trust: Trust, folder: Path) -> dict[str, object]:
    """The cost of one deposit, step by step."""
    content = big_n3(2_000_000)
    raw = message(package(content))
    checks = (Schema(Path(arguments.schemas)),) if arguments.schemas else ()
    desk = Desk(checks)
    [planned] = plan_deposits(raw, context(), at=now(), desk=desk)
    assert planned.state is DepositState.READY, planned.reason
    store = open_mailstore(folder)
    store.accept(Acceptance(Direction.SUBMISSION, "t", "a@b.fr", ("c@d.fr",), "<m>", raw, deposits=(planned,)), now())
    [number] = store.due_deposits(now(), 1)
    [leased] = store.lease_deposits({number: "2.25.1"}, "bench", now(), timedelta(minutes=5))
    job = store.open_deposit(leased)
    way = outlet("https://nowhere.invalid/repository", trust.peer, trust.signer, trust.anchors)
    way = replace(way, exchange=Nowhere())  # type: ignore[arg-type]
    plan = cpu(lambda: plan_deposits(raw, context(), at=now(), desk=desk), arguments.times)
    send = cpu(lambda: way.carry_out(job, now()), arguments.times)
    store.close()
    return {
        "bytes": len(content),
        "plan_ms": round(plan, 1),
        "send_ms": round(send, 1),
        "total_ms": round(plan + send, 1),
    }


def signatures(arguments: argparse.Namespace, trust: Trust, folder: Path) -> dict[str, object]:
    """A VIHF of ours beside signxml's and xmlsec1's, each verified by the others elsewhere (tests/ihe/test_vihf.py)."""
    from lxml import etree
    from signxml.signer import XMLSigner

    patient = synthetic_patient(1)
    key = trust.signer.key
    assert isinstance(key, rsa.RSAPrivateKey)
    content = VihfContent(
        "899900000019",
        "Alice EXEMPLE",
        (Code("10", "1.2.250.1.71.1.2.7"),),
        STRUCTURE,
        "SA01",
        patient.ins,
        patient.ins_oid,
        now(),
    )

    def ours() -> bytes:
        return build_vihf(content, key=key, chain=trust.signer.chain, assertion_id=f"_{uuid.uuid4()}", at=now())

    made = ours()
    place = folder / "template.xml"
    root = etree.fromstring(made)
    unsigned = etree.fromstring(made)
    node = unsigned.find("{http://www.w3.org/2000/09/xmldsig#}Signature")
    assert node is not None
    for child in list(node):
        node.remove(child)
    node.set("Id", "placeholder")
    name = root.get("ID") or ""

    def reference() -> object:
        from signxml.algorithms import CanonicalizationMethod

        signer = XMLSigner(c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0)
        return signer.sign(unsigned, key=key, cert=[trust.signer.certificate], reference_uri=name, id_attribute="ID")

    key_file = folder / "key.pem"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    place.write_bytes(made)
    found = {"ours_ms": round(cpu(ours, 50), 2), "signxml_ms": round(cpu(reference, 50), 2)}
    found["ratio"] = round(found["signxml_ms"] / found["ours_ms"], 1)
    return dict(found)


def flow(arguments: argparse.Namespace, trust: Trust, folder: Path) -> dict[str, object]:
    """Deposits a second, the record in a process of its own."""
    store = open_mailstore(folder)
    trust.server.write(folder, "server")
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.dmp_record", str(trust.folder), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        way = outlet(url, trust.peer, trust.signer, trust.anchors, existence=True)
        for number in range(arguments.deposits):
            content = make_cda(synthetic_patient(number), text=f"report {number} " * 200)
            planned = plan_deposits(message(xml(content)), context(), at=now())
            store.accept(
                Acceptance(Direction.SUBMISSION, "t", "a@b.fr", ("c@d.fr",), f"<{number}>", content, deposits=planned),
                now(),
            )
        depositor = Depositor(store, way, clock=now)
        anywhere = os.sched_getaffinity(0)
        os.environ.update(processor_of(1))
        keep_to_processor()
        ids = store.due_deposits(now(), arguments.deposits)
        first = ids[: max(arguments.threads, 4)]
        with ThreadPoolExecutor(arguments.threads) as pool:
            list(pool.map(depositor.run, first))
            gc.freeze()  # as every process of `caducee serve`
            usage = resource.getrusage(resource.RUSAGE_SELF)
            begun, used, served = time.monotonic(), usage.ru_utime + usage.ru_stime, cpu_of(server.pid)
            rest = ids[len(first) :]
            # As the dispatcher hands them out.
            tasks = [rest[begin : begin + BATCH] for begin in range(0, len(rest), BATCH)]
            outcomes = [outcome for done in pool.map(depositor.run_all, tasks) for outcome in done.values()]
            taken = time.monotonic() - begun
            os.sched_setaffinity(0, anywhere)
            usage = resource.getrusage(resource.RUSAGE_SELF)
        assert len(outcomes) == len(rest) and all(outcome.state is DepositState.DEPOSITED for outcome in outcomes)
        cost = (usage.ru_utime + usage.ru_stime - used) / len(outcomes)
        return {
            "deposits": len(outcomes),
            "per_second": round(len(outcomes) / taken, 1),
            "bridge_cpu_ms": round(1000 * cost, 2),
            "record_cpu_ms": round(1000 * (cpu_of(server.pid) - served) / len(outcomes), 2),
            "load": round(os.getloadavg()[0], 1),
        }
    finally:
        server.terminate()
        server.wait(15)
        store.close()


def archive(arguments: argparse.Namespace, trust: Trust, folder: Path) -> dict[str, object]:
    """Peak memory of finding what a 25 MB archive holds, in a process of its own.

    `whole_mb` is the process; `more_mb` everything above the loaded program (`base_mb`: the interpreter and our modules, the same
    for any message): the message itself, the archive out of its base64, and the documents in it. All in 10^6 bytes."""
    content = big_n3(200_000)
    filler = b"%PDF-1.4\n" + os.urandom(18_000_000)
    raw = message(package(content, pdf=filler))
    file = folder / "big.eml"
    file.write_bytes(raw)
    program = (
        # VmHWM begins at exec; ru_maxrss would begin with the parent's.
        "import sys,pathlib,re\n"
        "from dmp_bridge import DepositContext, plan_deposits\n"
        "def peak():\n"
        "    said = pathlib.Path('/proc/self/status').read_text()\n"
        "    return re.search(r'VmHWM:\\s+(\\d+)', said)[1]\n"
        "base=peak()\n"
        "raw=pathlib.Path(sys.argv[1]).read_bytes()\nplanned="
        "plan_deposits(raw, DepositContext('a@b.fr', '1990000011', 'HOPITAL'))\nassert len(planned)==1\n"
        "print(base, peak(), len(raw))\n"
    )
    said = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    base, peak, size = (int(word) for word in said.stdout.split())
    return {
        "message_mb": round(size / 1e6, 1),
        "base_mb": round(base * 1024 / 1e6, 1),
        "more_mb": round((peak - base) * 1024 / 1e6, 1),
        "whole_mb": round(peak * 1024 / 1e6, 1),
    }


def queue(arguments: argparse.Namespace, trust: Trust, folder: Path) -> dict[str, object]:
    """A long queue beside one of a thousand rows: the same verbs, and how many times longer they take."""
    (folder / "short").mkdir()
    short = _queue(1000, folder / "short")
    long = _queue(arguments.rows, folder)
    times = {
        name.replace("_ms", "_ratio"): round(float(str(value)) / max(float(str(short[name])), 0.01), 1)
        for name, value in long.items()
        if name.endswith("_ms")
    }
    return long | times


def _queue(rows: int, folder: Path) -> dict[str, object]:
    """Rows written straight into the table, then the verbs."""
    from sqlalchemy import create_engine, text

    store = open_mailstore(folder)
    content = make_cda(synthetic_patient(1))
    store.accept(
        Acceptance(
            Direction.SUBMISSION,
            "t",
            "a@b.fr",
            ("c@d.fr",),
            "<q>",
            content,
            deposits=plan_deposits(message(xml(content)), context()),
        ),
        now(),
    )
    engine = create_engine(f"sqlite:///{folder / 'mail.sqlite'}")
    with engine.begin() as connection:
        connection.execute(
            text(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < :rows) "
                "INSERT INTO deposits(submission_id,message_id,unique_id,sha1,blob,sealed_context,state,reason,attempts,"
                "created_at,"
                "next_attempt_at,lease_owner,lease_until,submission_set_id) "
                "SELECT d.submission_id,d.message_id,'x'||n.i,d.sha1,d.blob,"
                "d.sealed_context,CASE WHEN n.i%3=0 THEN 'deposited' WHEN n.i%3=1 THEN 'ready' ELSE 'needs_attention' END,'',0,"
                "d.created_at,CASE WHEN n.i%3=1 THEN d.next_attempt_at END,'',NULL,'' FROM n, deposits d WHERE d.id=1"
            ),
            {"rows": rows},
        )

    def spent(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return round(1000 * (time.perf_counter() - begun), 2)

    middle = store.deposit(rows // 2)
    found: dict[str, object] = {
        "rows": rows,
        "due_ms": spent(lambda: store.due_deposits(now(), 64)),
        "page_ms": spent(lambda: store.deposits(DepositState.NEEDS_ATTENTION, limit=100)),
        "page_middle_ms": spent(lambda: store.deposits(DepositState.NEEDS_ATTENTION, after=middle, limit=100)),
        "page_ready_ms": spent(lambda: store.deposits(DepositState.READY, limit=100)),
        "count_ms": spent(store.count_deposits),
    }
    timings = []
    for _ in range(200):
        begun = time.perf_counter()
        [number] = store.due_deposits(now(), 1)
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE deposits SET state='deposited', next_attempt_at=NULL WHERE id=:id"), {"id": number}
            )
        timings.append(time.perf_counter() - begun)
    found["drain_first_ms"] = round(1000 * sum(timings[:100]) / 100, 2)
    found["drain_last_ms"] = round(1000 * sum(timings[100:]) / 100, 2)
    engine.dispose()
    store.close()
    return found


MEASURES = {"one": one, "signatures": signatures, "flow": flow, "archive": archive, "queue": queue}


def main() -> None:
    """Run the measures asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", help=f"among {', '.join(MEASURES)}; all by default")
    parser.add_argument("--schemas", default="", help="folder of the CDA schema (one)")
    parser.add_argument("--times", type=int, default=5, help="repetitions (one)")
    parser.add_argument("--deposits", type=int, default=1200, help="how many (flow)")
    parser.add_argument("--threads", type=int, default=THREADS, help="worker threads (flow), as in caducee serve")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows (queue)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as place:
        trust = Trust.create(Path(place) / "trust")
        for name in arguments.measures or MEASURES:
            folder = Path(place) / name
            folder.mkdir()
            results[name] = MEASURES[name](arguments, trust, folder)
            if not arguments.json:
                print(f"{name}: " + ", ".join(f"{key} = {value}" for key, value in results[name].items()), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
