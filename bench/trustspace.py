"""The trust space, measured beside xmlsec1 and openssl in the same run: `python -m bench.trustspace --help`.

* `list`: the white list verified, parsed and stored (history, file, in force), in a process of its own; resident memory at
  its highest, and what the work added to the interpreter with its imports; xmlsec1 verifies the signature alone.
* `join`: one decision, domain and certificate name given.
* `path`: full validation with cached CRLs, nothing remembered; `openssl verify -crl_check_all` does the same in a process,
  most of which is its start: `openssl version` is timed beside it and taken off.
* `peer`: what a handshake's decision adds with warm caches (path, freshness, join).

Times are of CPU (the work is of one thread), so that a busy machine does not change them much; medians.
The list is the public one beside the repository when it is there (--list), otherwise one of the same size is signed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustspace import (
    Anchors,
    Fetcher,
    Issued,
    ListedDomain,
    PathValidator,
    PracticeAuthority,
    Refresher,
    Schedule,
    TrustSpace,
    Usage,
    may_speak,
    name_of,
    pem,
)
from trustspace.signing import sign_white_list

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
REAL_LIST = SAMPLES / "whitelist" / "listeblanchemssante-2025-02-28.xml"
REAL_ANCHORS = SAMPLES / "igc-sante"
ENTRIES = 6494


@dataclass(frozen=True)
class Row:
    """One figure beside its goal, and the peer's for the same work ("" when nobody does it)."""

    what: str
    ours: float
    unit: str
    goal: str
    peer: str = ""
    theirs: float | None = None

    @property
    def ratio(self) -> float | None:
        """The peer's figure over ours: more than 1, ours is quicker."""
        return self.theirs / self.ours if self.theirs is not None and self.ours else None


def timed(work: Callable[[], object], runs: int) -> float:
    """Median CPU seconds of one call, the processes it waited for included."""
    found = []
    for _ in range(runs):
        begin = spent()
        work()
        found.append(spent() - begin)
    return statistics.median(found)


def spent() -> float:
    """CPU seconds of this process and of its finished children."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def list_child(folder: Path, xml: Path, signer_cn: str) -> None:
    """In its own process: bring the list into force, and print seconds and memory as JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    space = TrustSpace(folder, signer_cn=signer_cn, practice=signer_cn == "alb.practice")
    refresher = Refresher(space, Fetcher(), Schedule())
    at = datetime.now(UTC)
    _ = space.white_list
    content = xml.read_bytes()
    begin = spent()
    refresher.install_list(content, at)
    seconds = spent() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    listed = space.white_list
    print(json.dumps([seconds, peak, peak - before, len(listed.entries) if listed else 0]))


def make_list(folder: Path, given: Path | None) -> tuple[Path, Path, str]:
    """(trust folder, list, signer's common name): the real ones, or a list of the same size of a practice authority."""
    trust = folder / "trust"
    for part in ("anchors", "intermediates", "crl"):
        (trust / part).mkdir(parents=True)
    if given is not None and given.exists() and REAL_ANCHORS.is_dir():
        for part, name in (("anchors", "ACR_ELEMENTAIRE"), ("intermediates", "AC_ELEMENTAIRE_ORGANISATIONS")):
            source = REAL_ANCHORS / f"{name}_20130625.cer"
            (trust / part / source.name).write_bytes(source.read_bytes())
        return trust, given, "alb.mssante.fr"
    authority = PracticeAuthority.create(folder / "pki", at=datetime.now(UTC) - timedelta(hours=1))
    filler = "Domaine de messagerie " + "x" * 200
    entries = [
        ListedDomain(f"d{number}.mssante.fr", f"CN=mss{number % 391}.fr,OU=1,O=O,ST=P,C=FR", filler)
        for number in range(ENTRIES)
    ]
    xml = folder / "list.xml"
    signer = authority.signer
    xml.write_bytes(sign_white_list(entries, at=datetime.now(UTC), key=signer.key, certificate=signer.certificate))
    authority.copy_trust(trust)
    return trust, xml, "alb.practice"


def bench_list(given: Path | None, runs: int) -> list[Row]:
    """The list, each time in a new process."""
    found = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            trust, xml, signer_cn = make_list(Path(name), given)
            command = [sys.executable, "-m", "bench.trustspace", "--child", str(trust), str(xml), signer_cn]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
            verify = ["xmlsec1", "--verify", "--insecure", str(xml)]
            xmlsec = timed(lambda v=verify: subprocess.run(v, capture_output=True, check=True), 3)  # type: ignore[misc]
            size = xml.stat().st_size / 1e6
    seconds, peak, added, count = (statistics.median(column) for column in zip(*found, strict=True))
    label = f"list of {size:.1f} MB, {count:.0f} entries"
    return [
        Row(f"{label}: verified, parsed, stored", seconds, "s", "< 1.5", "xmlsec1 (signature alone)", xmlsec),
        Row(f"{label}: process at its highest", peak, "MiB", "< 150"),
        Row(f"{label}: of which the work", added, "MiB", ""),
    ]


def _with_space(folder: Path) -> tuple[PracticeAuthority, Issued, TrustSpace, datetime]:
    now = datetime.now(UTC)
    authority = PracticeAuthority.create(folder / "pki", at=now - timedelta(hours=1), ca_key_size=4096)
    server = authority.issue_server("mss.a.example", "A", "1750000018", "Paris (75)", at=now - timedelta(hours=1))
    entries = [ListedDomain(f"d{number}.mssante.fr", f"CN=m{number % 391},O=O,C=FR") for number in range(ENTRIES)]
    authority.publish_white_list([*entries, ListedDomain.of("a.mssante.fr", server.certificate)], now)
    authority.copy_trust(folder / "trust")
    space = TrustSpace(folder / "trust", signer_cn="alb.practice", practice=True)
    return authority, server, space, now


def bench_decisions(runs: int) -> list[Row]:
    """Join, path and peer, in this process. Authorities of 4096 bits, as the real ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority, server, space, now = _with_space(folder)
        listed, dn = space.white_list, name_of(server.certificate)

        def many(work: Callable[[], object], count: int) -> float:
            return timed(lambda: [work() for _ in range(count)], runs) / count

        join = many(lambda: may_speak(listed, dn, "a.mssante.fr"), 20_000)
        validator = PathValidator(
            Anchors.load(authority.folder), [pem.read_crl(path) for path in pem.crl_files(authority.folder / "crl")]
        )
        path = many(lambda: validator._check(server.certificate, (), now, Usage.TLS_CLIENT, True), 100)
        peer = many(lambda: space.authorise(server.certificate, "a.mssante.fr", now), 5_000)
        chain, _ = server.write(folder, "peer")
        files = ["-CAfile", str(authority.folder / "anchors/TEST-ACR-EL.pem"), "-untrusted", str(chain)]
        for crl in ("TEST-ACR-EL", "TEST-ACI-EL-ORG"):
            files += ["-CRLfile", str(authority.folder / f"crl/{crl}.crl")]
        verify = ["openssl", "verify", "-crl_check_all", *files, str(chain)]
        whole = timed(lambda: subprocess.run(verify, capture_output=True, check=True), 15)
        start = timed(lambda: subprocess.run(["openssl", "version"], capture_output=True, check=True), 15)
    return [
        Row("join: one decision", join * 1e6, "µs", "< 5"),
        Row("path: full validation, cached CRLs", path * 1e3, "ms", "< 3", "openssl verify", (whole - start) * 1e3),
        Row("peer: a handshake's decision, warm", peer * 1e3, "ms", "< 1"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=REAL_LIST, help="a signed list of the real authorities")
    parser.add_argument("--synthetic", action="store_true", help="sign a list of the same size instead")
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure (median)")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "LIST", "CN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        list_child(Path(arguments.child[0]), Path(arguments.child[1]), arguments.child[2])
        return
    rows = bench_list(None if arguments.synthetic else arguments.list, arguments.runs) + bench_decisions(arguments.runs)
    if arguments.json:
        print(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], ensure_ascii=False, indent=1))
        return
    for row in rows:
        beside = (
            f"   {row.peer} {row.theirs:.3g}, ratio {row.ratio:.2f}" if row.theirs is not None and row.ratio else ""
        )
        print(f"{row.what:62} {row.ours:8.3f} {row.unit:4} goal {row.goal:6}{beside}")


if __name__ == "__main__":
    main()
