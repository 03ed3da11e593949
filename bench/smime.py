#!/usr/bin/env python3
"""S/MIME measured beside its peers, in one run: `cryptography.pkcs7`, `openssl cms`, and the bare primitives.

Prints ratios beside the targets. Times are processor time (wall time beside openssl's pipes), the best of several rounds, in turns;
the work is single-threaded. A message of 10 MB is a report with a PDF of random octets in base64. Memory is the growth of the peak
resident set of a fresh process. Where the processor multiplies 52 bits at a time (AVX-512 IFMA), OpenSSL's RSA takes less than half
the time, and everything beside it weighs twice as much: the rows of 10 KB then come twice, the second time ("plain RSA") with these
instructions hidden from OpenSSL, as on other processors.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mime
import smime

AT = datetime.now(UTC)


class Trusted:
    """A path checker that trusts: paths are trustspace's to measure."""

    trusted, reason = True, ""


def trusting(certificate: x509.Certificate, others: object, at: datetime) -> Trusted:
    return Trusted()


def holder(bits: int = 2048) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    usage = dict.fromkeys(("data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, AT - timedelta(days=1), AT + timedelta(days=30))
        .add_extension(x509.KeyUsage(True, True, True, **usage), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("bench@test.fr")]), False)
    )
    return key, builder.sign(key, hashes.SHA256())


def message(size: int) -> bytes:
    """About `size` octets on the wire."""
    octets = os.urandom(max(1, size * 57 // 78 - 600))
    text = mime.leaf("text/plain", b"Bonjour, voici le compte rendu.\r\n")
    entity = mime.multipart("mixed", [text, mime.leaf("application/pdf", octets, filename="cr.pdf")])
    fields = [("From", "bench@test.fr"), ("To", "autre@test.fr"), ("Subject", "Compte rendu"), ("Message-ID", "<1@x>")]
    return mime.message(fields, entity)


def bests(
    works: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """The best time of each, in turns, so that all see the same machine: processor time of this process, unless `clock`
    is another one."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            began = clock()
            work()
            found[name] = min(found[name], clock() - began)
    return found


class Desk:
    """One signer who is also the recipient."""

    def __init__(self) -> None:
        self.key, self.certificate = holder()
        self.signer = smime.SoftwareSigner(self.key, [self.certificate])
        self.decryptor = smime.SoftwareDecryptor(self.key, self.certificate)

    def protect(self, raw: bytes) -> bytes:
        return smime.encrypt_message(smime.sign_message(raw, self.signer, at=AT), [self.certificate])

    def open(self, sealed: bytes) -> smime.Opened:
        opened = smime.open_message(sealed, [self.decryptor], at=AT, path=trusting)
        assert opened.opened and opened.verifications[0].verdict is smime.Verdict.VALID
        return opened


def primitives_out(desk: Desk, raw: bytes) -> dict[str, Callable[[], Any]]:
    """What signing and encrypting cannot do without."""
    padded = raw[: len(raw) // 16 * 16]
    digest = hashlib.sha256(raw).digest()
    public = desk.key.public_key()
    return {
        "sha-256": lambda: hashlib.sha256(raw).digest(),
        "aes-256-cbc": lambda: Cipher(algorithms.AES(bytes(32)), modes.CBC(bytes(16))).encryptor().update(padded),
        "base64": lambda: base64.b64encode(raw),
        "rsa": lambda: (
            desk.key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256())),
            public.encrypt(bytes(32), padding.PKCS1v15()),
        ),
    }


def primitives_in(desk: Desk, raw: bytes) -> dict[str, Callable[[], Any]]:
    """What opening and verifying cannot do without; the base64 is in lines, as it comes."""
    padded = raw[: len(raw) // 16 * 16]
    digest = hashlib.sha256(raw).digest()
    public = desk.key.public_key()
    wrapped = public.encrypt(bytes(32), padding.PKCS1v15())
    signature = desk.key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    lines = mime.base64_lines(raw)
    return {
        "base64": lambda: base64.b64decode(lines),
        "aes-256-cbc": lambda: Cipher(algorithms.AES(bytes(32)), modes.CBC(bytes(16))).decryptor().update(padded),
        "sha-256": lambda: hashlib.sha256(raw).digest(),
        "rsa": lambda: (
            desk.key.decrypt(wrapped, padding.PKCS1v15()),
            public.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256())),
        ),
    }


def pkcs7_out(desk: Desk, raw: bytes) -> bytes:
    """cryptography's own S/MIME path."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(raw).add_signer(desk.certificate, desk.key, hashes.SHA256())
    signed = builder.sign(Encoding.SMIME, [pkcs7.PKCS7Options.DetachedSignature])
    envelope = pkcs7.PKCS7EnvelopeBuilder().set_data(signed).add_recipient(desk.certificate)
    return envelope.set_content_encryption_algorithm(algorithms.AES256).encrypt(Encoding.SMIME, [])


class OpenSsl:
    """`openssl cms` in pipes, with the message in a file."""

    def __init__(self, folder: Path, desk: Desk, raw: bytes) -> None:
        self.folder = folder
        (folder / "c.pem").write_bytes(desk.certificate.public_bytes(Encoding.PEM))
        (folder / "k.pem").write_bytes(desk.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "raw").write_bytes(raw)

    def shell(self, command: str) -> None:
        subprocess.run(["sh", "-c", command], cwd=self.folder, check=True, capture_output=True)

    def out(self) -> None:
        self.shell(
            "openssl cms -sign -binary -signer c.pem -inkey k.pem -in raw"
            " | openssl cms -encrypt -binary -aes-256-cbc -out sealed c.pem"
        )

    def back(self) -> None:
        self.shell(
            "openssl cms -decrypt -binary -recip c.pem -inkey k.pem -in sealed"
            " | openssl cms -verify -binary -noverify -out opened"
        )


def large(desk: Desk, size: int, rounds: int) -> list[dict[str, Any]]:
    raw = message(size)
    sealed = desk.protect(raw)
    parts_out = bests({"ours": lambda: desk.protect(raw), **primitives_out(desk, raw)}, rounds)
    parts_in = bests({"ours": lambda: desk.open(sealed), **primitives_in(desk, raw)}, rounds)
    ours, back = parts_out.pop("ours"), parts_in.pop("ours")
    peer = bests({"pkcs7": lambda: pkcs7_out(desk, raw)}, max(2, rounds // 3))["pkcs7"]
    with tempfile.TemporaryDirectory() as name:
        openssl = OpenSsl(Path(name), desk, raw)
        works = {"out": openssl.out, "our out": lambda: desk.protect(raw)}
        works |= {"back": openssl.back, "our back": lambda: desk.open(sealed)}
        walls = bests(works, max(2, rounds // 3), time.perf_counter)
    out, inwards = sum(parts_out.values()), sum(parts_in.values())
    label = f"{size / 1e6:.0f} MB"
    return [
        row(f"{label} sign+encrypt, cryptography.pkcs7 / ours", peer / ours, ">=", 5, ours, peer),
        row(f"{label} sign+encrypt, ours / primitives", ours / out, "<=", 1.5, ours, out, parts_out),
        row(
            f"{label} sign+encrypt, openssl pipe / ours (wall)",
            walls["out"] / walls["our out"],
            ">",
            1,
            walls["our out"],
            walls["out"],
        ),
        row(f"{label} verify+decrypt, ours / primitives", back / inwards, "<=", 1.5, back, inwards, parts_in),
        row(
            f"{label} verify+decrypt, openssl pipe / ours (wall)",
            walls["back"] / walls["our back"],
            ">",
            1,
            walls["our back"],
            walls["back"],
        ),
    ]


def small(desk: Desk, size: int, seconds: float) -> list[dict[str, Any]]:
    """Whole operations a second beside the bare private-key operation they hold, and beside their own primitives: the
    ceiling of each, which no code can pass."""
    raw = message(size)
    digest = hashlib.sha256(raw).digest()
    signed = smime.sign_message(raw, desk.signer, at=AT)
    sealed = smime.encrypt_message(raw, [desk.certificate])
    both = desk.protect(raw)
    public = desk.key.public_key()
    wrapped = public.encrypt(bytes(32), padding.PKCS1v15())
    bare_sign = lambda: desk.key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))  # noqa: E731
    bare_decrypt = lambda: desk.key.decrypt(wrapped, padding.PKCS1v15())  # noqa: E731
    out, back = primitives_out(desk, raw), primitives_in(desk, raw)
    rows = []
    for name, work, bare, parts in (
        ("sign", lambda: smime.sign_message(raw, desk.signer, at=AT), bare_sign, [out["sha-256"], bare_sign]),
        ("sign+encrypt", lambda: desk.protect(raw), bare_sign, list(out.values())),
        (
            "decrypt",
            lambda: smime.open_message(sealed, [desk.decryptor], at=AT, path=trusting),
            bare_decrypt,
            [back["base64"], back["aes-256-cbc"], bare_decrypt],
        ),
        ("verify+decrypt", lambda: desk.open(both), bare_decrypt, list(back.values())),
    ):
        ours, ceiling, alone = in_turns([work, lambda parts=parts: [part() for part in parts], bare], seconds)
        label = f"{size // 1000} KB {name}"
        rows.append(row(f"{label}, ours / bare RSA-2048 operation", ours / alone, ">=", 0.9, ours, alone))
        rows.append(row(f"{label}, ours / its own primitives", ours / ceiling, ">=", 0.9, ours, ceiling))
        what = f"{label}, its primitives / bare RSA-2048 operation (the ceiling)"
        rows.append(plain(what, ceiling / alone, ceiling, alone))
    (ours,) = in_turns([lambda: smime.verify_message(signed, at=AT, path=trusting)], seconds)
    rows.append(plain(f"{size // 1000} KB verify, a second", None, ours, None))
    return rows


def plain(what: str, ratio: float | None, ours: float, peer: float | None) -> dict[str, Any]:
    """A row without a target."""
    return {"what": what, "ratio": ratio, "target": "", "met": None, "ours": ours, "peer": peer}


def in_turns(works: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Operations a second of processor time of each, in turns, so that all see the same machine: the best turn of each."""
    bests = [0.0] * len(works)
    spent = 0.0
    while spent < len(works) * seconds:
        for index, work in enumerate(works):
            began = time.process_time()
            for _ in range(50):
                work()
            taken = time.process_time() - began
            bests[index] = max(bests[index], 50 / taken)
            spent += taken
    return bests


def row(
    what: str, ratio: float, sign: str, target: float, ours: float, peer: float, parts: dict[str, float] | None = None
) -> dict[str, Any]:
    met = ratio >= target if sign.startswith(">") else ratio <= target
    return {"what": what, "ratio": ratio, "target": f"{sign} {target}", "met": met, "ours": ours, "peer": peer} | (
        {"parts": parts} if parts else {}
    )


NO_IFMA = ":~0x200000"
"""OPENSSL_ia32cap(3): bit 21 of EBX of leaf 7 taken away."""


def small_plain(seconds: float) -> list[dict[str, Any]]:
    """`small` in a fresh process without AVX-512 IFMA; nothing where there is none."""
    information = Path("/proc/cpuinfo")
    if not information.exists() or "avx512ifma" not in information.read_text():
        return []
    command = [sys.executable, __file__, "--small", "--json", "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OPENSSL_ia32cap": NO_IFMA})
    return [item | {"what": f"plain RSA: {item['what']}"} for item in json.loads(done.stdout)]


def memory(size: int) -> list[dict[str, Any]]:
    """Growth of the peak resident set while a fresh process protects, then one that opens, a message."""
    rows = []
    for what in ("out", "in"):
        done = subprocess.run(
            [sys.executable, __file__, "--one", what, "--size", str(size)], check=True, capture_output=True, text=True
        )
        grown, length = json.loads(done.stdout)
        name = "sign+encrypt" if what == "out" else "verify+decrypt"
        rows.append(row(f"{size / 1e6:.0f} MB {name}, peak memory / message", grown / length, "<=", 4, grown, length))
    return rows


def one(what: str, size: int) -> None:
    """In the fresh process: the message itself counts as part of the growth."""
    desk = Desk()
    desk.open(desk.protect(message(2000)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m"
        made = subprocess.run(
            [sys.executable, "-c", MAKE, str(Path(__file__).parents[1]), str(path), str(size)], check=True
        )
        del made
        if what == "in":
            path.write_bytes(b"")
            key = desk.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (Path(name) / "k").write_bytes(key)
            (Path(name) / "c").write_bytes(desk.certificate.public_bytes(Encoding.PEM))
            subprocess.run([sys.executable, "-c", SEAL, str(Path(__file__).parents[1]), name, str(size)], check=True)
        before = forget()
        raw = path.read_bytes()
        desk.protect(raw) if what == "out" else desk.open(raw)
        print(json.dumps([peak() - before, len(raw)]))


MAKE = """
import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/bench']
import smime as _, importlib.util as u
s = u.spec_from_file_location('b', sys.argv[1] + '/bench/smime.py'); b = u.module_from_spec(s); s.loader.exec_module(b)
open(sys.argv[2], 'wb').write(b.message(int(sys.argv[3])))
"""
SEAL = """
import sys; sys.path[:0] = [sys.argv[1]]
import importlib.util as u
s = u.spec_from_file_location('b', sys.argv[1] + '/bench/smime.py'); b = u.module_from_spec(s); s.loader.exec_module(b)
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
f = Path(sys.argv[2]); d = b.Desk.__new__(b.Desk)
d.key = load_pem_private_key((f / 'k').read_bytes(), None)
d.certificate = x509.load_pem_x509_certificate((f / 'c').read_bytes())
d.signer = b.smime.SoftwareSigner(d.key, [d.certificate])
(f / 'm').write_bytes(d.protect(b.message(int(sys.argv[3]))))
"""


def peak() -> int:
    """The largest resident set since `forget`, octets (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def forget() -> int:
    """Starts counting the peak anew; the resident set now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000_000, help="octets of the large message (default 10 MB)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds for the large message")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds for each small operation")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--one", choices=["out", "in"], help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="the rows of 10 KB only, on this processor as it is")
    options = parser.parse_args()
    if options.one:
        one(options.one, options.size)
        return
    desk = Desk()
    rows = small(desk, 10_000, options.seconds)
    if not options.small:
        rows = large(desk, options.size, options.rounds) + rows + small_plain(options.seconds) + memory(options.size)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for item in rows:
        ratio = "" if item["ratio"] is None else f"{item['ratio']:6.2f}"
        met = {True: "met", False: "NOT MET", None: ""}[item["met"]]
        peer = "" if item["peer"] is None else number(item["peer"])
        print(f"{item['what']:82} {ratio:>7} {item['target']:>7} {met:8} ours {number(item['ours'])}  beside {peer}")
        if item.get("parts"):
            print(" " * 8 + ", ".join(f"{name} {number(value)}" for name, value in item["parts"].items()))


def number(value: float) -> str:
    """Seconds below 10 as milliseconds; larger figures (a second, octets) as they are."""
    return f"{value * 1e3:.1f} ms" if value < 10 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
