"""What can go wrong with a secured message, as one typed family.

Invariant: no text here holds content, keys or subjects; everything that fails after a recipient was found is the one
`DecryptionFailed`, always with the same text, so that it tells an attacker nothing (RFC 3218 §2.3.2). Its `cause` is for
the operator's audit trail alone.
"""

from __future__ import annotations

from enum import StrEnum


class SmimeError(Exception):
    """Base of the family. `code` is a fixed word for logs and audit lines."""

    code = "smime"


class MalformedCms(SmimeError):
    """The bytes are not the CMS structure they claim to be, or exceed its bounds."""

    code = "malformed-cms"


class UnsupportedCms(SmimeError):
    """Well formed, but of a kind or with an algorithm that is not read here, or that the policy does not let be read."""

    code = "unsupported-cms"


class TooLarge(SmimeError):
    """The message is longer than the caller allows."""

    code = "too-large"


class NotForUs(SmimeError):
    """No recipient of the envelope matches a key at hand."""

    code = "not-for-us"


class OpeningFailure(StrEnum):
    """Where opening an envelope failed. Never to be told to whoever sent it."""

    KEY_UNWRAP = "key-unwrap"
    PADDING = "cbc-padding"
    TAG = "gcm-tag"


class DecryptionFailed(SmimeError):
    """The envelope could not be opened; deliberately without any detail outside the audit trail."""

    code = "decryption-failed"

    def __init__(self, cause: OpeningFailure) -> None:
        super().__init__("the envelope could not be opened")
        self.cause = cause


class UnwrapFailed(Exception):
    """A Decryptor's answer when OAEP or the elliptic curve point is wrong. Never leaves this package."""


class UnsuitableCertificate(SmimeError):
    """A certificate or key cannot be used for what was asked (kind of key, size, key usage, policy)."""

    code = "unsuitable-certificate"


class SigningFailed(SmimeError):
    """The signer gave no usable signature."""

    code = "signing-failed"


class KeyUnavailable(SmimeError):
    """The token, card or HSM that holds the key does not answer; try again when it does."""

    code = "key-unavailable"
