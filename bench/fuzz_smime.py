#!/usr/bin/env python3
"""Fuzzing of the parsers of smime/ and mime/: one target a parser, mutations of real messages, for as long as asked.

A target fails when it raises anything but its typed error, when it takes more than two seconds, or when it breaks its own
promise (a detached signature over other octets is never VALID, a part lies inside its message…). The octets that made it fail are
written to a file, and the exit code is 1. `--seed` repeats a run; without it the seed is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mime
import smime
from smime import ber, capabilities, codec, coverage, enveloped, enveloped_codec, frames, headers, judge, signed_codec
from smime.verdict import Judging, Verdict

AT = datetime(2026, 11, 20, 10, tzinfo=UTC)
LIMIT = 2.0
Target = Callable[[bytes], None]


class Trusted:
    trusted, reason = True, ""


def trusting(certificate: object, others: object, at: datetime) -> Trusted:
    return Trusted()


def typed(read: Callable[[bytes], object]) -> Target:
    """Only SmimeError may come out."""

    def target(data: bytes) -> None:
        with contextlib.suppress(smime.SmimeError):
            read(data)

    return target


def ber_target(data: bytes) -> None:
    try:
        again = ber.definite(data)
    except smime.MalformedCms:
        return
    ber.check(again)
    assert ber.definite(again) == again


def plain_envelope(data: bytes) -> None:
    """The quick reader answers as the general one, or not at all."""
    quick = enveloped_codec.read_plain(data)
    assert quick is None or quick == ber.reading(data, enveloped_codec.read_any)


def framed(data: bytes) -> None:
    """A signature read by comparison with those of before is what the general reader makes of it."""
    try:
        expected = signed_codec.read_signed(data)
    except smime.SmimeError:
        expected = None
    try:
        found = frames.read_signed(data)
    except smime.SmimeError:
        found = None
    assert found == expected


def tree(data: bytes) -> None:
    root = mime.parse(data)
    for part in root.walk():
        assert 0 <= part.start <= part.body_start <= part.end <= len(data)
        for child in part.children:
            assert part.start <= child.start <= child.end <= part.end
        part.decoded(data)
        part.addresses("from")
        _ = (part.filename, part.disposition, part.get("subject"))


def seven_bit(data: bytes) -> None:
    made = mime.to_seven_bit(data)
    assert len(made) <= 4 * len(data) + 100_000


def header_fields(data: bytes) -> None:
    fields, body = mime.split(data)
    assert all(fields[i].end == fields[i + 1].start for i in range(len(fields) - 1)) and body <= len(data)
    outside, inside = headers.protect(data[:body], b"", smime.HeaderMode.CIPHER)
    headers.read(inside + b"\r\n", outside, encrypted=True)


class Fuzzer:
    """The targets, and what their mutations begin with."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tests.smime import certificates as make

        self.keys = [make.rsa_holder().decryptor, make.ec_holder().decryptor]
        text = mime.leaf("text/plain", b"Bonjour,\r\nvoici.\r\n")
        pdf = mime.leaf("application/pdf", bytes(range(256)) * 3, filename="é.pdf")
        fields = [("From", "Médecin <m@x.fr>"), ("Subject", "Résultat"), ("To", "a@x.fr, b@x.fr")]
        clear = mime.message(fields, mime.multipart("mixed", [text, pdf]))
        certificates = [make.rsa_holder().certificate, make.ec_holder().certificate]
        signers = [make.rsa_holder().signer, make.ec_holder().signer]
        detached = smime.sign_message(clear, signers, at=AT, protect=smime.HeaderMode.CLEAR)
        opaque = smime.sign_message(clear, make.ec_holder().signer, at=AT, opaque=True)
        sealed = [
            smime.encrypt_message(one, certificates, cipher=cipher)
            for one in (detached, opaque)
            for cipher in (smime.ContentCipher.AES256_CBC, smime.ContentCipher.AES128_GCM)
        ]
        messages = [clear, detached, opaque, *sealed, smime.sign_message(sealed[0], signers[0], at=AT)]
        forward = mime.multipart("mixed", [text, b"Content-Type: message/rfc822\r\n\r\n" + detached])
        messages.append(mime.message(fields, forward))
        vectors = Path(__file__).resolve().parents[1] / "tests" / "smime" / "vectors"
        foreign = [path.read_bytes() for path in sorted(vectors.glob("*.p7?"))]
        self.content = mime.parse(detached).children[0].raw(detached)
        signature = mime.parse(detached).children[1].decoded(detached)
        signed = [
            signature,
            mime.parse(opaque).decoded(opaque),
            *(one for one in foreign if kind(one) == "signed-data"),
        ]
        envelopes = [mime.parse(one).decoded(one) for one in sealed] + [
            one for one in foreign if kind(one) != "signed-data"
        ]
        self.signature = signature
        everything = [*signed, *envelopes]
        self.targets: dict[str, tuple[Target, list[bytes]]] = {
            "ber": (ber_target, everything),
            "codec.kind": (typed(codec.kind), everything),
            "signed-data": (typed(signed_codec.read_signed), signed),
            "signed-data, by frames": (framed, signed),
            "enveloped-data, quick reader": (plain_envelope, envelopes),
            "enveloped-data": (typed(enveloped_codec.read_enveloped), envelopes),
            "capabilities": (typed(capabilities.read), [capabilities.OURS_DER]),
            "verify": (self.verify, signed),
            "decrypt": (typed(lambda data: enveloped.decrypt(data, self.keys)), envelopes),
            "mime.parse": (tree, messages),
            "mime.split and header protection": (header_fields, messages),
            "mime.to_seven_bit": (seven_bit, [clear, detached, messages[-1]]),
            "smime.open_message": (self.open, messages),
        }

    def verify(self, data: bytes) -> None:
        for one in judge.verify(data, self.content, Judging(AT, trusting)):
            assert isinstance(one.verdict, Verdict)
        for one in judge.verify(data, b"other octets", Judging(AT, trusting)):
            assert one.verdict is not Verdict.VALID
        judge.verify(data, None, Judging(AT, trusting))

    def open(self, data: bytes) -> None:
        opened = smime.open_message(data, self.keys, at=AT, path=trusting)
        survey = opened.survey()
        for part in survey.parts:
            assert 0 <= part.start <= part.end <= len(opened.content)
        assert len(survey.nested) <= coverage.MAX_NESTED
        smime.clear_entity(data)

    def mutate(self, data: bytes) -> bytes:
        """One to six changes: bits, octets, lengths, cuts, copies, repeats."""
        out = bytearray(data)
        choose = self.random
        for _ in range(choose.choice((1, 1, 1, 2, 3, 6))):
            if not out:
                out = bytearray(b"\x30\x80")
            place = choose.randrange(len(out))
            change = choose.randrange(8)
            if change == 0:
                out[place] ^= 1 << choose.randrange(8)
            elif change == 1:
                out[place] = choose.choice((0, 1, 0x24, 0x30, 0x7F, 0x80, 0x84, 0xA0, 0xFF, 10, 13, 45, 58))
            elif change == 2:
                del out[place : place + choose.choice((1, 2, 16, 300))]
            elif change == 3:
                end = min(len(out), place + choose.choice((2, 20, 400)))
                out[place:place] = out[place:end]
            elif change == 4:
                del out[place:]
            elif change == 5:
                out[place:place] = choose.randbytes(choose.choice((1, 4, 40)))
            elif change == 6:
                out[place : place + 4] = b"\x84" + choose.randbytes(4)
            else:
                other = choose.randrange(len(out))
                size = choose.choice((4, 40))
                out[place : place + size] = out[other : other + size]
        return bytes(out)

    def run(self, name: str, seconds: float) -> int:
        """Runs one target; how many inputs. Raises what went wrong, with the input in a file."""
        target, seeds = self.targets[name]
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            data = self.mutate(self.random.choice(seeds))
            began = time.process_time()
            try:
                target(data)
                assert time.process_time() - began < LIMIT, "too slow"
            except BaseException:
                with tempfile.NamedTemporaryFile(delete=False, prefix="fuzz-", suffix=".bin") as file:
                    file.write(data)
                print(f"{name}: failed, input in {file.name}", file=sys.stderr)
                raise
            count += 1
        return count


def kind(data: bytes) -> str:
    return codec.kind(data).value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default 60)")
    parser.add_argument("--target", help="one target only")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {timedelta(seconds=options.seconds)} a target")
    fuzzer = Fuzzer(seed)
    for name in fuzzer.targets if options.target is None else [options.target]:
        print(f"{name:36} {fuzzer.run(name, options.seconds):>9,} inputs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
