"""The process that speaks to a PKCS#11 library, so that a library that hangs or crashes takes only this process with it.

One JSON object a line on standard input, one answer a line on standard output. The first line gives library and PIN
(never an argument, which other users could read); the others ask to sign, unwrap, agree or generate.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from pkcs11 import exceptions as errors

from smime import KeyTransport, Mechanism, SmimeError
from smime.errors import KeyUnavailable, UnwrapFailed
from smime.pkcs11 import Token, TokenDecryptor, TokenSigner

PIN_REFUSED = "pin-refused"
_REFUSALS = (errors.PinIncorrect, errors.PinInvalid, errors.PinExpired, errors.PinLocked)
Request = Mapping[str, Any]


class Worker:
    """Requests on one library."""

    def __init__(self, library: str, pin: str) -> None:
        self._library, self._pin = library, pin
        self._refused = False
        self._held: dict[tuple[str, ...], TokenSigner | TokenDecryptor] = {}

    def answer(self, request: Request) -> dict[str, Any]:
        """`{"ok": value}`, or `{"error": fixed word}`: never a text that could hold a PIN."""
        operations: dict[str, Callable[[Request], str]] = {
            "sign": self._sign,
            "unwrap": self._unwrap,
            "agree": self._agree,
            "generate": self._generate,
        }
        try:
            return {"ok": operations[request["op"]](request)}
        except UnwrapFailed:
            return {"error": "unwrap-failed"}
        except SmimeError as error:
            self._refused = self._refused or isinstance(error.__cause__, _REFUSALS)
            return {"error": PIN_REFUSED if self._refused else error.code}

    def _sign(self, request: Request) -> str:
        held = self._key(request, "sign")
        assert isinstance(held, TokenSigner)  # noqa: S101 - kept under this name
        return _text(held.sign(_octets(request["digest"]), Mechanism(request["mechanism"])))

    def _unwrap(self, request: Request) -> str:
        oaep = tuple(request["oaep"]) if request["oaep"] else None
        transport = KeyTransport((oaep[0], oaep[1]) if oaep else None)
        return _text(self._opener(request).unwrap(_octets(request["data"]), transport, request["length"]))

    def _agree(self, request: Request) -> str:
        return _text(self._opener(request).agree(_octets(request["data"])))

    def _generate(self, request: Request) -> str:
        token = self._token(request["token"])
        return _text(token.generate_rsa(request["key"], request["bits"]))

    def _token(self, label: str) -> Token:
        if self._refused:  # a second wrong try would bring the token nearer to its lock
            raise KeyUnavailable("the token refused its PIN")
        return Token.open(self._library, label=label, pin=self._pin)

    def _opener(self, request: Request) -> TokenDecryptor:
        held = self._key(request, "open")
        assert isinstance(held, TokenDecryptor)  # noqa: S101 - kept under this name
        return held

    def _key(self, request: Request, use: str) -> TokenSigner | TokenDecryptor:
        name = (use, request["token"], request["key"], request["certificate"])
        held = self._held.get(name)
        if held is None:
            token = self._token(request["token"])
            certificate = x509.load_der_x509_certificate(_octets(request["certificate"]))
            if use == "sign":
                held = token.signer((certificate,), label=request["key"])
            else:
                held = token.decryptor(certificate, label=request["key"])
            self._held[name] = held
        return held


def _octets(text: str) -> bytes:
    return base64.b64decode(text)


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def main() -> None:
    """Serve until standard input ends."""
    # A library may print: what it prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    worker = Worker(first["library"], first["pin"])
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
