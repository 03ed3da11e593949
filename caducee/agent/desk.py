"""Working with the card for one message: who holds it, consent and PIN, signature, login.

Invariants: nothing is signed that was not shown (or, when the settings say so, covered by a PIN given a moment ago); the
question is asked while no other program is kept from the card; the card that signs is the card that was shown; a PIN is
shown to the card once for each question, never twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from email.utils import formataddr
from typing import Protocol, TypeVar

from cryptography import x509

import mime
import smime
from caducee.agent.display import Display, Question
from caducee.agent.pin import PinHolder
from smime.cps_errors import CardError, CardRemoved
from smime.cps_model import Card, CardSigner, Holder

_T = TypeVar("_T")
_MOST_SHOWN = 10


class NotAgreed(Exception):
    """The holder refused, or did not answer."""


class Cards(Protocol):
    """How the card at hand is reached: by PC/SC (`smime.cps_reader`) or a PKCS#11 library (`smime.cps_remote`)."""

    def session(self) -> AbstractContextManager[Card]:
        """The only card there, for one piece of work, at the end of which it forgets the PIN. Raises CardError."""
        ...


class Desk:
    """The card at hand. One piece of work at a time; call from threads, it blocks while people think."""

    def __init__(
        self,
        display: Display,
        pins: PinHolder,
        cards: Cards,
        *,
        ask_each: bool = True,
        issuers: Sequence[x509.Certificate] = (),
        clock: Callable[[], datetime],
    ) -> None:
        self._display = display
        self._pins = pins
        self._cards = cards
        self._ask_each = ask_each
        self._issuers = tuple(issuers)
        self._clock = clock
        self._lock = threading.Lock()

    def sign(self, raw: bytes, recipients: Sequence[str]) -> bytes:
        """A clear message signed; one that is signed or encrypted already comes back as it is.

        Raises NotAgreed, CardError, smime.SmimeError."""
        if smime.outermost(raw).kind is not smime.LayerKind.CLEAR:
            return raw

        def work(card: Card) -> bytes:
            return smime.sign_message(raw, CardSigner(card, self._issuers), at=self._clock())

        return self._with_card(described(raw, recipients), work, ask=self._ask_each)

    def authenticate(self, digest: bytes) -> bytes:
        """A signature of the card's authentication key, to log in. Raises NotAgreed, CardError."""
        lines = ("Connexion à l'opérateur / login to the operator",)
        return self._with_card(lines, lambda card: card.authenticate(digest), ask=False)

    def certificate(self) -> x509.Certificate:
        """The certificate to log in with. Needs no PIN. Raises CardError."""
        with self._lock, self._cards.session() as card:
            return card.authentication_certificate()

    def _with_card(self, lines: Sequence[str], work: Callable[[Card], _T], *, ask: bool) -> _T:
        with self._lock:
            with self._cards.session() as card:
                card.check_period(self._clock())
                serial, holder, left = card.serial, _name(card.holder()), card.pin_status().left
            pin = self._pins.get(serial)
            known = pin is not None
            if ask or not known:
                reply = self._display.ask(Question(holder, tuple(lines), left, pin=not known))
                if not reply.agreed:
                    raise NotAgreed
                pin = pin or reply.pin
            return self._unlocked(serial, pin or b"", work, take_last_try=not known)

    def _unlocked(self, serial: str, pin: bytes, work: Callable[[Card], _T], *, take_last_try: bool) -> _T:
        with self._cards.session() as card:
            if card.serial != serial:
                self._pins.forget()
                raise CardRemoved("another card")
            try:
                card.verify_pin(pin, take_last_try=take_last_try)
            except CardError:
                self._pins.forget()
                raise
            self._pins.put(serial, pin)
            return work(card)


def described(raw: bytes, recipients: Sequence[str]) -> tuple[str, ...]:
    """A message in a few lines for people: from, to, subject, attachments, size."""
    message = mime.parse(raw)
    names = [part.filename for part in message.walk() if part.filename]
    senders = ", ".join(formataddr(pair, "utf-8") for pair in message.addresses("From"))
    more = f" (+{len(recipients) - _MOST_SHOWN})" if len(recipients) > _MOST_SHOWN else ""
    lines = [
        f"De / from : {senders}",
        f"À / to : {', '.join(recipients[:_MOST_SHOWN])}{more}",
        f"Objet / subject : {message.get('Subject') or ''}",
        f"Taille / size : {len(raw) / 1024:.0f} Kio",
    ]
    return (*lines, *(f"Pièce jointe / attachment : {name}" for name in names[:_MOST_SHOWN]))


def _name(holder: Holder) -> str:
    return f"{holder.given_name} {holder.surname} ({holder.national_id or '?'})"
