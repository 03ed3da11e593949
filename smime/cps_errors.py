"""What can go wrong with a card, from no reader at all to a key that is not its certificate's.

Invariant: `code` is a fixed word, fit for logs; no text holds a PIN, a name or what was to be signed.
"""

from __future__ import annotations

from smime.errors import KeyUnavailable


class CardError(KeyUnavailable):
    """Base of the family."""

    code = "card"


class NoReader(CardError):
    """No smart card service, or no reader plugged in."""

    code = "no-reader"


class NoCard(CardError):
    """A reader, but no CPS card in it."""

    code = "no-card"


class SeveralCards(CardError):
    """More than one CPS card: which one is for the caller to say."""

    code = "several-cards"


class CardRemoved(CardError):
    """The card left the reader, or another program reset it, in the middle of the work."""

    code = "card-removed"


class ReaderFailed(CardError):
    """The reader disappeared, or did not answer in time."""

    code = "reader-failed"


class MalformedCard(CardError):
    """The card answered something a CPS card does not answer: lengths, structure, endless data."""

    code = "malformed-card"


class UnsuitableCard(CardError):
    """Not a CPS card that signs: unknown model, contactless, or without the certificate asked for."""

    code = "unsuitable-card"


class ExpiredCard(CardError):
    """The card, or its certificate, is not in its dates."""

    code = "expired-card"


class PinRequired(CardError):
    """The card wants its PIN before it does this."""

    code = "pin-required"


class BadPin(CardError):
    """Not the form of a PIN; it was not shown to the card."""

    code = "bad-pin"


class WrongPin(CardError):
    """The card refused the PIN. `left` is how many tries remain."""

    code = "wrong-pin"

    def __init__(self, left: int) -> None:
        super().__init__(f"wrong PIN, {left} tries left")
        self.left = left


class LastTry(CardError):
    """One try is left: the PIN was not shown to the card, because its holder must ask for that expressly."""

    code = "last-try"


class PinBlocked(CardError):
    """No try is left: the card must be unblocked by its issuer's means."""

    code = "pin-blocked"


class KeyMismatch(CardError):
    """The signature does not verify with the card's certificate: key and certificate do not belong together."""

    code = "key-mismatch"
