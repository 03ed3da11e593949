"""Keys in PKCS#11 tokens (HSM, SoftHSM2), used through processes of their own, with time-outs.

Invariants: the library is never loaded in this process; a worker process works on one request at a time, because libraries
are not thread safe, while others wait in its pipe; a key's number is used in the process that gave it only; a call that
takes too long kills the worker and is KeyUnavailable, and the next call starts another; the PIN goes through a pipe only. A
reference names a key in a token; it is what the store keeps instead of a private key.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from smime import KeyTransport, Mechanism, UnsuitableCertificate
from smime.errors import KeyUnavailable, UnwrapFailed
from smime.library_process import LibraryProcess, ProcessGone

CALL_SECONDS = 10.0
# As `proxy.token_worker` says them; that module, which loads the library's binding, is never imported here.
_MODULE = "proxy.token_worker"
_PIN_REFUSED, _UNKNOWN_KEY = b"-pin-refused", b"-unknown-key"
_NUMBER = {mechanism: bytes((number,)) for number, mechanism in enumerate(Mechanism)}


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
        wanted = {"token": reference.token, "key": reference.key, "bits": bits}
        return self.ask(b"", b"g", json.dumps(wanted).encode())

    def ask(self, key: bytes, wanted: bytes, content: bytes) -> bytes:
        """One request to the worker that has least to do. `key` is what opens the key there, empty when none is wanted.

        Raises KeyUnavailable, UnsuitableCertificate, UnwrapFailed."""
        turn = next(self._turn)
        order = (self._workers[(turn + step) % len(self._workers)] for step in range(len(self._workers)))
        return min(order, key=lambda worker: worker.process.waiting).ask(key, wanted, content)

    def close(self) -> None:
        """Stop the processes."""
        for worker in self._workers:
            worker.process.stop()


class RemoteSigner:
    """A `smime.Signer` whose key is in a token, behind a process."""

    def __init__(self, tokens: TokenProcesses, reference: Reference, chain: Sequence[x509.Certificate]) -> None:
        if not chain:
            raise UnsuitableCertificate("a signer needs its certificate")
        self._tokens, self._chain = tokens, tuple(chain)
        self._key = _opening("sign", reference, chain[0])

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `smime.Signer.sign`."""
        return self._tokens.ask(self._key, b"s", _NUMBER[mechanism] + digest)


class RemoteDecryptor:
    """A `smime.Decryptor` whose key is in a token, behind a process."""

    def __init__(self, tokens: TokenProcesses, reference: Reference, certificate: x509.Certificate) -> None:
        self._tokens, self._certificate = tokens, certificate
        self._key = _opening("open", reference, certificate)

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `smime.Decryptor.unwrap`."""
        oaep = ",".join(transport.oaep or ()).encode("ascii")
        wanted = key_length.to_bytes(2, "big") + bytes((len(oaep),)) + oaep
        return self._tokens.ask(self._key, b"u", wanted + encrypted_key)

    def agree(self, public: bytes) -> bytes:
        """See `smime.Decryptor.agree`."""
        return self._tokens.ask(self._key, b"a", public)


class _Worker:
    """One process, and the numbers that the keys opened in it have there."""

    def __init__(self, library: str, pin: str, seconds: float) -> None:
        self.process = LibraryProcess(_MODULE, json.dumps({"library": library, "pin": pin}).encode(), seconds)
        self._refused = False
        self._opening = threading.Lock()
        self._generation = 0
        self._numbers: dict[bytes, bytes] = {}

    def ask(self, key: bytes, wanted: bytes, content: bytes) -> bytes:
        if self._refused:
            raise KeyUnavailable("the token refused its PIN; it will not be tried again")
        try:
            generation, number = self._number(key)
            answer = self.process.ask(wanted + number + content, generation=generation)
            if answer == _UNKNOWN_KEY:  # it holds so many keys that it forgot this one
                generation, number = self._number(key, forgotten=number)
                answer = self.process.ask(wanted + number + content, generation=generation)
        except ProcessGone:
            raise KeyUnavailable("the token does not answer") from None
        return self._result(answer)

    def _number(self, key: bytes, forgotten: bytes = b"") -> tuple[int, bytes]:
        """The number of a key, and the generation of the process in which it is that key's. `key` empty: none."""
        generation = self.process.start()
        if not key:
            return generation, b""
        with self._opening:
            if self._generation != generation:
                self._generation = generation
                self._numbers.clear()
            if self._numbers.get(key, forgotten) == forgotten:
                self._numbers[key] = self._result(self.process.ask(b"o" + key, generation=generation))
            return generation, self._numbers[key]

    def _result(self, answer: bytes) -> bytes:
        if answer[:1] == b"+":
            return answer[1:]
        if answer == b"-unwrap-failed":
            raise UnwrapFailed
        if answer == b"-" + UnsuitableCertificate.code.encode():
            raise UnsuitableCertificate("the token does not do that")
        self._refused = answer == _PIN_REFUSED
        raise KeyUnavailable("the token does not answer")


def _opening(use: str, reference: Reference, certificate: x509.Certificate) -> bytes:
    octets = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
    return json.dumps({"use": use, "token": reference.token, "key": reference.key, "certificate": octets}).encode()
