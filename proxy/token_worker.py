"""The process that speaks to a PKCS#11 library of server-side keys (see `smime.library_process`).

The first frame is JSON: library and PIN. A request is one octet, what is wanted, and its content; an answer is `+` and the
result, or `-` and a fixed word, never a text that could hold a PIN:

    o  JSON {use, token, key, certificate}    a key, by its number from then on (4 octets)
    s  key, mechanism (1), digest             a signature
    u  key, length (2), size (1), OAEP hashes "digest,mask" or nothing, encrypted key   the content key
    a  key, point                             a shared secret
    g  JSON {token, key, bits}                a new key pair: its public part
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable

from cryptography import x509
from pkcs11 import exceptions as errors

from smime import KeyTransport, Mechanism, SmimeError
from smime.errors import KeyUnavailable, UnwrapFailed
from smime.library_process import serve
from smime.pkcs11 import Token, TokenDecryptor, TokenSigner

PIN_REFUSED = b"pin-refused"
UNKNOWN_KEY = b"unknown-key"
MECHANISMS = tuple(Mechanism)
"""Numbered by their place here."""
_REFUSALS = (errors.PinIncorrect, errors.PinInvalid, errors.PinExpired, errors.PinLocked)
_MOST_HELD = 4096


class Worker:
    """Requests on one library. `answer` never raises for what a request can cause."""

    def __init__(self, first: bytes) -> None:
        read = json.loads(first)
        self._library, self._pin = read["library"], read["pin"]
        self._refused = False
        self._opened = 0
        self._held: OrderedDict[bytes, TokenSigner | TokenDecryptor] = OrderedDict()
        self._operations: dict[int, Callable[[bytes], bytes]] = {
            ord("o"): self._open,
            ord("s"): self._sign,
            ord("u"): self._unwrap,
            ord("a"): self._agree,
            ord("g"): self._generate,
        }

    def answer(self, request: bytes) -> bytes:
        """See the module's text."""
        try:
            return b"+" + self._operations[request[0]](request[1:])
        except UnwrapFailed:
            return b"-unwrap-failed"
        except SmimeError as error:
            self._refused = self._refused or isinstance(error.__cause__, _REFUSALS)
            return b"-" + (PIN_REFUSED if self._refused else error.code.encode())
        except KeyError:
            return b"-" + UNKNOWN_KEY

    def _open(self, content: bytes) -> bytes:
        wanted = json.loads(content)
        token = self._token(wanted["token"])
        certificate = x509.load_der_x509_certificate(base64.b64decode(wanted["certificate"]))
        label = wanted["key"]
        held = (
            token.signer((certificate,), label=label)
            if wanted["use"] == "sign"
            else token.decryptor(certificate, label=label)
        )
        self._opened += 1
        number = self._opened.to_bytes(4, "big")
        self._held[number] = held
        while len(self._held) > _MOST_HELD:
            self._held.popitem(last=False)
        return number

    def _sign(self, content: bytes) -> bytes:
        held = self._held[content[:4]]
        assert isinstance(held, TokenSigner)  # noqa: S101 - asked for as one
        return held.sign(content[5:], MECHANISMS[content[4]])

    def _unwrap(self, content: bytes) -> bytes:
        length, size = int.from_bytes(content[4:6], "big"), content[6]
        digest, _, mask = content[7 : 7 + size].decode("ascii").partition(",")
        transport = KeyTransport((digest, mask) if digest else None)
        return self._opener(content).unwrap(content[7 + size :], transport, length)

    def _agree(self, content: bytes) -> bytes:
        return self._opener(content).agree(content[4:])

    def _generate(self, content: bytes) -> bytes:
        wanted = json.loads(content)
        return self._token(wanted["token"]).generate_rsa(wanted["key"], wanted["bits"])

    def _opener(self, content: bytes) -> TokenDecryptor:
        held = self._held[content[:4]]
        assert isinstance(held, TokenDecryptor)  # noqa: S101 - asked for as one
        return held

    def _token(self, label: str) -> Token:
        if self._refused:  # a second wrong try would bring the token nearer to its lock
            raise KeyUnavailable("the token refused its PIN")
        return Token.open(self._library, label=label, pin=self._pin)


if __name__ == "__main__":
    serve(lambda first: Worker(first).answer)
