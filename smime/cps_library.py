"""The process that reaches a CPS card through a PKCS#11 library, such as the national one (Cryptolib CPS).

Requests and answers are JSON objects in frames (`smime.library_process`); the first names the library. One piece of work is
`open` (which card, its certificates, its PIN's state), `login`, `sign` as often as wanted, and `close`, which logs out.

Invariants: the PIN is shown to the card once for each `login`, never while the library says that it is blocked, and on its
last try only when that is asked for; an answer is a result or a fixed word, never a text of the library.
Source: standards facts sheet §3.4 and §3.7 (labels of the objects); PKCS#11 v2.20 §9.2 for the flags.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11 import Mechanism as TokenMechanism
from pkcs11 import exceptions as errors

from smime.cps_errors import (
    BadPin,
    CardError,
    CardRemoved,
    LastTry,
    NoCard,
    NoReader,
    PinBlocked,
    PinRequired,
    ReaderFailed,
    SeveralCards,
    UnsuitableCard,
    WrongPin,
)
from smime.library_process import serve

SIGNATURE, AUTHENTICATION = "Certificat de Signature CPS", "Certificat d'Authentification CPS"
MOST_TRIES = 3
_REMOVED = (
    errors.DeviceRemoved,
    errors.TokenNotPresent,
    errors.SessionHandleInvalid,
    errors.SessionClosed,
    errors.ObjectHandleInvalid,
    errors.KeyHandleInvalid,
)
_MALFORMED_PIN = (errors.PinInvalid, errors.PinLenRange)
_LONGEST_CERTIFICATE = 16 * 1024


class LibraryCards:
    """The card found by one library, and the session with it."""

    def __init__(self, first: bytes) -> None:
        self._path = str(json.loads(first)["library"])
        self._token: Any = None
        self._session: Any = None
        self._operations: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "login": self._login,
            "sign": self._sign,
            "close": self._close,
        }

    def answer(self, frame: bytes) -> bytes:
        """The answer to one request: the result, or `{"error": word}` with `left` after a wrong PIN."""
        request = json.loads(frame)
        try:
            found = self._operations[request["op"]](request)
        except WrongPin as error:
            found = {"error": error.code, "left": error.left}
        except CardError as error:
            found = {"error": error.code}
        except _REMOVED:
            self._forget()
            found = {"error": CardRemoved.code}
        except errors.UserNotLoggedIn:
            found = {"error": PinRequired.code}
        except (errors.PKCS11Error, OSError, RuntimeError):
            self._forget()
            found = {"error": ReaderFailed.code}
        return json.dumps(found).encode()

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._forget()
        slots = [
            slot
            for slot in pkcs11.lib(self._path).get_slots()
            if request["reader"].lower() in slot.slot_description.lower()
        ]
        if not slots:
            raise NoReader("no reader of that name")
        tokens = [token for slot in slots if (token := _token_in(slot)) is not None]
        if not tokens:
            raise NoCard("no card in the reader")
        cards = [(token, found) for token in tokens if (found := _certificates(token)) is not None]
        if not cards:
            raise UnsuitableCard("no card with the certificates of a CPS")
        if len(cards) > 1:
            raise SeveralCards("several cards")
        self._token, certificates = cards[0]
        self._session = self._token.open()
        return {
            "serial": self._token.serial.decode("latin-1").strip("\0 "),
            "left": tries_left(self._token.flags),
            "certificates": [[_text(identifier), _text(octets)] for identifier, octets in certificates],
        }

    def _login(self, request: Mapping[str, Any]) -> dict[str, Any]:
        token = self._present()
        left = tries_left(token.flags)
        if left == 0:
            raise PinBlocked("the PIN is blocked")
        if left == 1 and not request["take_last_try"]:
            raise LastTry("one try is left")
        self._session.close()
        self._session = None
        try:
            self._session = token.open(user_pin=request["pin"])
        except errors.PinIncorrect:
            self._session = token.open()
            left = tries_left(token.slot.get_token().flags)
            raise (WrongPin(left) if left else PinBlocked("the PIN is blocked")) from None
        except errors.PinLocked:
            raise PinBlocked("the PIN is blocked") from None
        except _MALFORMED_PIN:
            raise BadPin("not the form of this card's PIN") from None
        return {}

    def _sign(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._present()
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: base64.b64decode(request["key"])}
        keys = list(self._session.get_objects(wanted))
        if len(keys) != 1:  # private keys are not seen before the login
            raise PinRequired("the card wants its PIN")
        info = base64.b64decode(request["info"])
        return {"signature": _text(bytes(keys[0].sign(info, mechanism=TokenMechanism.RSA_PKCS)))}

    def _close(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self._forget()
        return {}

    def _present(self) -> Any:
        if self._token is None or self._session is None:
            raise CardRemoved("no session with a card")
        return self._token

    def _forget(self) -> None:
        """Close the only session of this process, which logs out (PKCS#11 §11.6)."""
        session, self._session, self._token = self._session, None, None
        if session is not None:
            try:
                session.close()
            except errors.PKCS11Error:
                return


def tries_left(flags: TokenFlag) -> int:
    """What the flags of a token say of its PIN: 0 blocked, 1 last try, 2 a wrong one was shown, else MOST_TRIES."""
    if flags & TokenFlag.USER_PIN_LOCKED:
        return 0
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return 1
    return 2 if flags & TokenFlag.USER_PIN_COUNT_LOW else MOST_TRIES


def _token_in(slot: Any) -> Any:
    try:
        return slot.get_token()
    except (errors.TokenNotPresent, errors.TokenNotRecognised, errors.DeviceRemoved):
        return None


def _certificates(token: Any) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]] | None:
    """Identifier and DER of the signature and authentication certificates, seen without PIN; None without both."""
    if not token.flags & TokenFlag.TOKEN_INITIALIZED:
        return None
    found: dict[str, tuple[bytes, bytes]] = {}
    with token.open() as session:
        for one in session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE}):
            octets = bytes(one[Attribute.VALUE])
            if len(octets) <= _LONGEST_CERTIFICATE:
                found.setdefault(str(one[Attribute.LABEL]), (bytes(one[Attribute.ID]), octets))
    pair = found.get(SIGNATURE), found.get(AUTHENTICATION)
    return (pair[0], pair[1]) if pair[0] and pair[1] else None


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


if __name__ == "__main__":
    serve(lambda first: LibraryCards(first).answer)
