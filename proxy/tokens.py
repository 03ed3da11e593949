"""Keys in PKCS#11 tokens (HSM, SoftHSM2, the national card library), used through a process of their own, with time-outs.

Invariants: the library is never loaded in this process; one request at a time for each worker process, because libraries
are not thread safe; a call that takes too long kills the worker and is KeyUnavailable, and the next call starts another;
the PIN goes through a pipe only. A reference names a key in a token; it is what the store keeps instead of a private key.
"""

from __future__ import annotations

import base64
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from smime import KeyTransport, Mechanism, UnsuitableCertificate
from smime.errors import KeyUnavailable, UnwrapFailed

CALL_SECONDS = 10.0
_PIN_REFUSED = "pin-refused"  # as `proxy.token_worker` says it; that module is never imported here


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a key is: label of the token, label of the key."""

    token: str
    key: str

    def to_bytes(self) -> bytes:
        return json.dumps({"token": self.token, "key": self.key}).encode()

    @classmethod
    def from_bytes(cls, octets: bytes) -> Reference:
        """Raises KeyUnavailable for what is not one."""
        try:
            read = json.loads(octets)
            return cls(str(read["token"]), str(read["key"]))
        except (ValueError, KeyError, TypeError):
            raise KeyUnavailable("unreadable reference of a key in a token") from None


class TokenProcesses:
    """A pool of worker processes over one library; a `proxy.keys.Tokens`. Thread safe. Processes start when needed."""

    def __init__(self, library: str, pin: str, *, workers: int = 1, seconds: float = CALL_SECONDS) -> None:
        self._workers = [_Worker(library, pin, seconds) for _ in range(workers)]
        self._turn = itertools.count()

    def signer(self, reference: bytes, chain: tuple[x509.Certificate, ...]) -> RemoteSigner:
        """The Signer of a key, by its reference."""
        return RemoteSigner(self, Reference.from_bytes(reference), chain)

    def decryptor(self, reference: bytes, certificate: x509.Certificate) -> RemoteDecryptor:
        """The Decryptor of a key, by its reference."""
        return RemoteDecryptor(self, Reference.from_bytes(reference), certificate)

    def generate_rsa(self, reference: Reference, bits: int) -> bytes:
        """Make a key pair inside the token; its public key (SubjectPublicKeyInfo, DER). Raises KeyUnavailable."""
        return self.ask({"op": "generate", "token": reference.token, "key": reference.key, "bits": bits})

    def ask(self, request: dict[str, Any]) -> bytes:
        """One request to whichever worker is free. Raises KeyUnavailable, UnsuitableCertificate, UnwrapFailed."""
        first = next(self._turn)
        order = [self._workers[(first + step) % len(self._workers)] for step in range(len(self._workers))]
        for worker in order:
            if worker.lock.acquire(blocking=False):
                break
        else:
            worker = order[0]
            worker.lock.acquire()
        try:
            return worker.ask(request)
        finally:
            worker.lock.release()

    def close(self) -> None:
        """Stop the processes."""
        for worker in self._workers:
            with worker.lock:
                worker.stop()


class RemoteSigner:
    """A `smime.Signer` whose key is in a token, behind a process."""

    def __init__(self, tokens: TokenProcesses, reference: Reference, chain: Sequence[x509.Certificate]) -> None:
        if not chain:
            raise UnsuitableCertificate("a signer needs its certificate")
        self._tokens, self._chain = tokens, tuple(chain)
        self._request = _named(reference, chain[0])

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `smime.Signer.sign`."""
        return self._tokens.ask({**self._request, "op": "sign", "digest": _text(digest), "mechanism": mechanism.value})


class RemoteDecryptor:
    """A `smime.Decryptor` whose key is in a token, behind a process."""

    def __init__(self, tokens: TokenProcesses, reference: Reference, certificate: x509.Certificate) -> None:
        self._tokens, self._certificate = tokens, certificate
        self._request = _named(reference, certificate)

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `smime.Decryptor.unwrap`."""
        wanted = {"data": _text(encrypted_key), "oaep": transport.oaep, "length": key_length}
        return self._tokens.ask({**self._request, "op": "unwrap", **wanted})

    def agree(self, public: bytes) -> bytes:
        """See `smime.Decryptor.agree`."""
        return self._tokens.ask({**self._request, "op": "agree", "data": _text(public)})


class _Worker:
    """One process. `lock` is held by whoever asks."""

    def __init__(self, library: str, pin: str, seconds: float) -> None:
        self.lock = threading.Lock()
        self._first = json.dumps({"library": library, "pin": pin}) + "\n"
        self._seconds = seconds
        self._refused = False
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask(self, request: dict[str, Any]) -> bytes:
        if self._refused:
            raise KeyUnavailable("the token refused its PIN; it will not be tried again")
        process = self._running()
        try:
            assert process.stdin is not None  # noqa: S101 - asked for with PIPE
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=self._seconds)
        except (OSError, queue.Empty):
            line = ""
        if not line:  # dead, or too slow to be believed later
            self.stop()
            raise KeyUnavailable("the token does not answer")
        answer = json.loads(line)
        if "ok" in answer:
            return base64.b64decode(answer["ok"])
        if answer["error"] == "unwrap-failed":
            raise UnwrapFailed
        if answer["error"] == UnsuitableCertificate.code:
            raise UnsuitableCertificate("the token does not do that")
        self._refused = answer["error"] == _PIN_REFUSED
        raise KeyUnavailable("the token does not answer")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._answers = queue.SimpleQueue()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy.token_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()
            assert self._process.stdin is not None  # noqa: S101 - asked for with PIPE
            with suppress(OSError):
                self._process.stdin.write(self._first)
        return self._process

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _read(process: subprocess.Popen[str], answers: queue.SimpleQueue[str]) -> None:
    """Move the answers of one process to its queue; an empty one says that it ended."""
    assert process.stdout is not None  # noqa: S101 - asked for with PIPE
    with suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")


def _named(reference: Reference, certificate: x509.Certificate) -> dict[str, str]:
    der = certificate.public_bytes(Encoding.DER)
    return {"token": reference.token, "key": reference.key, "certificate": _text(der)}


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
