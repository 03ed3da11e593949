"""What the proxy, the keys and the card cost, beside what they cannot cost less than.

Rows: check of a send code; protection of a 100 KB message beside what the target allows it, two RSA private operations and 2 ms;
the same in a store of 10,000 domain keys; search for quoted codes. Processor time, which other programs do not disturb, but
for the synced rows. Tokens: bench/tokens.py; desk agent: bench/agent.py. `--json` for programs. Figures of one machine:
compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mime
from mailstore import MailboxKind, Store
from proxy import CodeDesk, EncryptPolicy, KeyRing, Protected, Protector, ProxyPolicy, SignPolicy, scrub
from trustspace import PracticeAuthority, pem

OURS = "chu.mssante.fr"
PEER = "the target: two RSA-2048 private operations and 2 ms"


def best(call: Callable[[], object], seconds: float = 1.0, clock: Callable[[], float] = time.thread_time) -> float:
    """Time of one call, in milliseconds of this thread's processor time (or of another clock): the best tenth, which other
    programs on the machine disturb least."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        begin = clock()
        call()
        taken.append((clock() - begin) * 1000)
    return sorted(taken)[len(taken) // 10]


class NoDirectory:
    """Everybody has the same certificate: look-ups have their own bench."""

    def __init__(self, certificate: object) -> None:
        self._certificate = certificate

    def encryption_certificates(self, address: str, at: datetime) -> list[object]:
        return [self._certificate]

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *args, **kwargs: None


class Trusted:
    trusted = True
    reason = ""


def main() -> None:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--keys", type=int, default=10_000, help="domain keys in the store (default 10,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.keys)
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    print(f"{'what':58} {'ms':>9} {'peer ms':>9} {'ratio':>7}  peer")
    for row in rows:
        peer, ratio = row["peer_ms"], row["ratio"]
        print(
            f"{row['what']:58} {row['ms']:9.3f} {peer if peer is not None else '':>9} {ratio or '':>7}  {row['peer']}"
        )


def row(what: str, ms: float, peer: str = "", peer_ms: float | None = None) -> dict[str, object]:
    ratio = None if peer_ms is None else round(ms / peer_ms, 2)
    return {"what": what, "ms": round(ms, 3), "peer": peer, "peer_ms": peer_ms and round(peer_ms, 3), "ratio": ratio}


def measure(folder: Path, keys: int) -> list[dict[str, object]]:
    """Every row."""
    now = datetime.now(UTC)
    authority = PracticeAuthority.create(folder / "pki", at=now - timedelta(days=1))
    store = Store.create(f"sqlite:///{folder / 'mail.db'}", folder / "blobs", bytes(32))
    address = f"passerelle@{OURS}"
    account = store.add_account(
        address,
        MailboxKind.APP,
        display_name="P",
        national_id="1990000010",
        password=None,
        client_key=bytes(32),
        at=now,
    )
    issued = authority.issue_organisation("P", "CHU", "1990000010", "Rhône (69)", usage="smime", email=address, at=now)
    to = authority.issue_organisation("R", "CHU", "1990000010", "Rhône (69)", usage="smime", email=f"r@{OURS}", at=now)
    key = issued.key
    assert isinstance(key, rsa.RSAPrivateKey)
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    store.put_key(address, "smime", pem.chain_to_pem(issued.chain), private, now)
    policy = ProxyPolicy(dict.fromkeys(MailboxKind, SignPolicy.ALWAYS), EncryptPolicy.WHEN_POSSIBLE)
    protector = Protector(
        store,
        NoDirectory(to.certificate),  # type: ignore[arg-type]
        policy,
        signers=lambda *_: Trusted(),  # type: ignore[arg-type, return-value]
        recipients=lambda *_: Trusted(),  # type: ignore[arg-type, return-value]
        is_local=lambda _: False,
    )
    fields = [("From", address), ("To", f"r@{OURS}"), ("Subject", "Compte rendu"), ("Message-ID", "<1@x>")]
    raw = mime.message(fields, mime.leaf("application/pdf", os.urandom(75_000), filename="cr.pdf"))
    prose = mime.message(fields, mime.leaf("text/plain", b"Le patient va bien, 12-34, suite au prochain. " * 2300))
    sign = best(lambda: key.sign(bytes(32), padding.PKCS1v15(), hashes.SHA256()))
    budget = 2 * sign + 2.0

    def protect(message: bytes) -> None:
        answer = protector.protect(message, sender=account, recipients=[f"r@{OURS}"], at=now)
        assert isinstance(answer, Protected), answer

    desk = CodeDesk(store)
    code = desk.issue(account, at=now, life=timedelta(days=1)).text

    def check() -> None:
        found = desk.check([code], sender=account, recipients=[], peer="", at=now)
        assert not hasattr(found, "enhanced")
        desk.use(found.code_id, now)  # type: ignore[union-attr]

    rows = [
        row("check of a send code, its use counted (synced)", best(check, clock=time.perf_counter)),
        row(f"search for quoted codes, {len(prose) // 1000} KB of prose", best(lambda: scrub.quoted(prose))),
        row(f"protection, {len(raw) // 1000} KB with a PDF", best(lambda: protect(raw)), PEER, budget),
        row(
            f"protection, {len(prose) // 1000} KB of prose",
            best(lambda: protect(prose)),
            PEER,
            budget,
        ),
    ]
    chain = pem.chain_to_pem(issued.chain)
    begin = time.perf_counter()
    for number in range(keys):
        store.put_key(f"d{number}.mssante.fr", "smime", chain, private, now)
    filled = (time.perf_counter() - begin) * 1000 / keys
    rows.append(row("a key kept (sealed, synced)", filled))
    rows.append(row(f"protection among {keys} domain keys", best(lambda: protect(raw)), PEER, budget))
    rows.append(row(f"opening the ring of {keys} keys (nothing is loaded)", best(lambda: KeyRing(store))))
    return rows


if __name__ == "__main__":
    main()
