"""A CPS card through a PKCS#11 library in a process of its own (`smime.cps_library`), with a time limit on every call.

Invariants: the library is never loaded in this process; one piece of work at a time; a library that hangs or crashes is
ReaderFailed, and the next piece of work starts another process; the session ends by a log out, or by the process's death;
what the card signs is verified with its certificate before it is given.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from smime import cps_errors
from smime.cps_errors import BadPin, CardError, ExpiredCard, MalformedCard, PinBlocked, ReaderFailed, WrongPin
from smime.cps_model import SHA256_INFO, Holder, PinStatus, checked, holder_of, rsa_key
from smime.library_process import LibraryProcess, ProcessGone

CALL_SECONDS = 15.0
NATIONAL_LIBRARIES = {
    "linux": "/opt/santesocial/CPS/lib/libcps3_pkcs11_lux.so",
    "darwin": "/usr/local/lib/libcps3_pkcs11_osx.dylib",
    "win32": "C:/Windows/System32/cps3_pkcs11_w64.dll",
}
"""Where the national library is installed, by `sys.platform` (facts sheet §3.7; the Windows folder is the system's)."""
_ERRORS = {one.code: one for one in vars(cps_errors).values() if isinstance(one, type) and issubclass(one, CardError)}


def national_library() -> str:
    """The national library of this computer, "" when it is not installed."""
    path = NATIONAL_LIBRARIES.get(sys.platform, "")
    return path if path and Path(path).exists() else ""


class LibraryCardAccess:
    """The card that one library sees; a `caducee.agent.desk.Cards`. Thread safe: one piece of work at a time."""

    def __init__(self, library: str, *, reader: str = "", seconds: float = CALL_SECONDS) -> None:
        self._process = LibraryProcess("smime.cps_library", json.dumps({"library": library}).encode(), seconds)
        self._reader = reader
        self._lock = threading.Lock()

    @contextmanager
    def session(self) -> Iterator[LibraryCard]:
        """The card, for one piece of work. Raises CardError."""
        with self._lock:
            opened = self._ask({"op": "open", "reader": self._reader})
            try:
                yield LibraryCard(self, opened)
            finally:
                with suppress(CardError):
                    self._ask({"op": "close"})

    def close(self) -> None:
        """Stop the process."""
        self._process.stop()

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._process.ask(json.dumps(request).encode()))
        except ProcessGone:
            raise ReaderFailed("the card's library did not answer in time") from None
        code = answer.get("error")
        if code == WrongPin.code:
            raise WrongPin(int(answer["left"]))
        if code is not None:
            raise _ERRORS.get(code, ReaderFailed)("told by the card's library")
        return answer


class LibraryCard:
    """One card, inside a session. See `smime.cps.CpsCard` for what each method says and raises."""

    def __init__(self, access: LibraryCardAccess, opened: dict[str, Any]) -> None:
        self._access = access
        self._left = int(opened["left"])
        self.serial = str(opened["serial"])
        (self._signing, self._signature), (self._login, self._authentication) = (
            (identifier, _certificate(octets)) for identifier, octets in opened["certificates"]
        )

    def holder(self) -> Holder:
        """Who holds the card, read from the signature certificate."""
        return holder_of(self._signature)

    def signature_certificate(self) -> x509.Certificate:
        """The certificate of the key that signs mail."""
        return self._signature

    def authentication_certificate(self) -> x509.Certificate:
        """The certificate of the key that logs in."""
        return self._authentication

    def check_period(self, at: datetime) -> None:
        """Raises ExpiredCard when the signature certificate is out of date at `at`; the library judges the card's own period."""
        if not self._signature.not_valid_before_utc <= at <= self._signature.not_valid_after_utc:
            raise ExpiredCard("the card's certificate is out of its dates")

    def pin_status(self) -> PinStatus:
        """What the library's flags say of the tries left, when the session began. Raises PinBlocked."""
        if self._left == 0:
            raise PinBlocked("the PIN is blocked")
        return PinStatus(self._left)

    def verify_pin(self, pin: bytes, *, take_last_try: bool = False) -> None:
        """Show the PIN to the card, once. Raises BadPin, LastTry, WrongPin, PinBlocked."""
        if not 4 <= len(pin) <= 8 or not all(0x30 <= digit <= 0x39 for digit in pin):
            raise BadPin("a PIN is 4 to 8 digits")
        self._access._ask({"op": "login", "pin": pin.decode("ascii"), "take_last_try": take_last_try})

    def sign_digest(self, digest: bytes) -> bytes:
        """RSA PKCS#1 v1.5 over a SHA-256 digest, with the signature key, verified. Raises PinRequired, KeyMismatch."""
        return self._signed(self._signing, digest, self._signature)

    def authenticate(self, digest: bytes) -> bytes:
        """The same with the authentication key."""
        return self._signed(self._login, digest, self._authentication)

    def _signed(self, identifier: str, digest: bytes, certificate: x509.Certificate) -> bytes:
        info = base64.b64encode(SHA256_INFO + digest).decode("ascii")
        answer = self._access._ask({"op": "sign", "key": identifier, "info": info})
        return checked(base64.b64decode(answer["signature"]), digest, certificate)


def _certificate(octets: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(octets))
        rsa_key(certificate)
    except ValueError:
        raise MalformedCard("a certificate that cannot be read") from None
    return certificate
