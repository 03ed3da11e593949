"""A PKCS#11 token through its worker processes, beside the same library called directly.

Rows: one signature at a time, beside the token's own (rounds by turns, best tenth of each, so that the machine's load bears
on both); eight threads over one process and over two: signatures for each second of processor time of those processes, beside
a direct caller's, and how much of the time they had something to do (1: the token never waits for us). `--minutes 10` keeps
eight threads signing and verifying for that long instead, over two processes, and says how many signatures were made, how
many failed and what the processes' memory became. SoftHSM2 in a folder of its own. `--json` for programs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from proxy.tokens import Reference, RemoteSigner, TokenProcesses
from smime import Mechanism

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "1234"
THREADS = 8
ROUNDS = 6
DIRECT = """
import sys, time, pkcs11
token = pkcs11.lib(sys.argv[1]).get_token(token_label="mss")
with token.open(user_pin=sys.argv[2]) as session:
    key = next(iter(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})))
    for _ in sys.stdin:
        taken, end, used = [], time.perf_counter() + 1.0, time.process_time()
        while time.perf_counter() < end:
            begin = time.perf_counter()
            key.sign(bytes(51), mechanism=pkcs11.Mechanism.RSA_PKCS)
            taken.append((time.perf_counter() - begin) * 1000)
        print(sorted(taken)[len(taken) // 10], len(taken) / (time.process_time() - used), flush=True)
"""


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--minutes", type=float, default=0.0, help="run the endurance test for that long instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_token(Path(folder))
        rows = endurance(options.minutes) if options.minutes else rates()
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        for row in rows:
            print("  ".join(f"{name}: {value}" for name, value in row.items()))
    return 1 if any(row.get("failed") for row in rows) else 0


def make_token(folder: Path) -> None:
    """A SoftHSM2 token with one RSA key, labelled `bench`."""
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = os.fspath(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "mss", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)


def opened(workers: int) -> tuple[TokenProcesses, RemoteSigner, rsa.RSAPublicKey]:
    """Worker processes, the signer of the key, and its public part."""
    tokens, reference = TokenProcesses(SOFTHSM, PIN, workers=workers), Reference("mss", "bench")
    file = Path(os.environ["SOFTHSM2_CONF"]).parent / "public.der"
    if not file.exists():
        file.write_bytes(tokens.generate_rsa(reference, 2048))
    public = load_der_public_key(file.read_bytes())
    assert isinstance(public, rsa.RSAPublicKey)
    name, issuer = x509.Name([]), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    at = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, public, 1, at, at + timedelta(days=1)).sign(issuer, SHA256())
    return tokens, tokens.signer(reference.to_bytes(), (certificate,)), public


def rates() -> list[dict[str, object]]:
    """The token's own rate and ours, by turns."""
    tokens, signer, _ = opened(1)
    digest = bytes(32)
    ours: list[float] = []
    theirs: list[tuple[float, float]] = []
    with subprocess.Popen(
        [sys.executable, "-c", DIRECT, SOFTHSM, PIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as direct:
        assert direct.stdin is not None and direct.stdout is not None
        for _ in range(ROUNDS):
            direct.stdin.write("\n")
            direct.stdin.flush()
            best, rate = direct.stdout.readline().split()
            theirs.append((float(best), float(rate)))
            taken = timed(lambda: signer.sign(digest, Mechanism.RSA_PKCS1_SHA256), 1.0)
            ours.append(sorted(taken)[len(taken) // 10])
        direct.stdin.close()
    mine, peer = statistics.median(ours), statistics.median(one for one, _ in theirs)
    rows: list[dict[str, object]] = [
        {"what": "one signature", "ms": round(mine, 3), "direct ms": round(peer, 3), "ratio": round(mine / peer, 3)}
    ]
    tokens.close()
    direct_rate = statistics.median(rate for _, rate in theirs)
    for workers in (1, 2):
        tokens, signer, _ = opened(workers)
        together(signer, 0.2)
        before, begin = scheduled(tokens), time.perf_counter()
        made = together(signer, 4.0)
        seconds = time.perf_counter() - begin
        used, waited = (after - earlier for after, earlier in zip(scheduled(tokens), before, strict=True))
        rows.append(
            {
                "what": f"{THREADS} threads, {workers} process(es)",
                "a processor second": round(made / used),
                "direct": round(direct_rate),
                "ratio": round(made / used / direct_rate, 2),
                "had work": round((used + waited) / seconds / workers, 2),
                "a second": round(made / seconds),
            }
        )
        tokens.close()
    return rows


def scheduled(tokens: TokenProcesses) -> tuple[float, float]:
    """Seconds that the processes ran, and that they waited for a processor (Linux schedstat), together."""
    texts = [Path(f"/proc/{one.process.pid}/schedstat").read_text().split() for one in tokens._workers]
    return sum(int(text[0]) for text in texts) / 1e9, sum(int(text[1]) for text in texts) / 1e9


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begin) * 1000)
    return taken


def together(signer: RemoteSigner, seconds: float) -> int:
    """How many signatures several threads make."""
    with ThreadPoolExecutor(THREADS) as pool:
        work = [
            pool.submit(timed, lambda: signer.sign(bytes(32), Mechanism.RSA_PKCS1_SHA256), seconds)
            for _ in range(THREADS)
        ]
        return sum(len(one.result()) for one in work)


def endurance(minutes: float) -> list[dict[str, object]]:
    """Every signature is verified; what fails is counted, not hidden."""
    tokens, signer, public = opened(2)
    signer.sign(bytes(32), Mechanism.RSA_PKCS1_SHA256)
    deadline = time.monotonic() + minutes * 60

    def work(number: int) -> tuple[int, int]:
        good = bad = 0
        while time.monotonic() < deadline:
            content = b"%d %d" % (number, good)
            try:
                signature = signer.sign(hashlib.sha256(content).digest(), Mechanism.RSA_PKCS1_SHA256)
                public.verify(signature, content, padding.PKCS1v15(), SHA256())
                good += 1
            except Exception:
                bad += 1
        return good, bad

    before = memory(tokens)
    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(work, range(THREADS)))
    after = memory(tokens)
    starts = [worker.process.generation for worker in tokens._workers]
    tokens.close()
    return [
        {
            "minutes": minutes,
            "threads": THREADS,
            "signatures": sum(good for good, _ in done),
            "failed": sum(bad for _, bad in done),
            "processes started": sum(starts),
            "memory MB": f"{before} then {after}",
        }
    ]


def memory(tokens: TokenProcesses) -> list[int]:
    """Resident megabytes of each process."""
    status = [Path(f"/proc/{one.process.pid}/status") for one in tokens._workers if one.process.pid]
    lines = [line for path in status for line in path.read_text().splitlines() if line.startswith("VmRSS")]
    return [int(line.split()[1]) // 1024 for line in lines]


if __name__ == "__main__":
    sys.exit(main())
