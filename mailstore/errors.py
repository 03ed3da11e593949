"""What the verbs of the mail store raise. Texts are for people: French, then English; they never hold what a message says."""

from __future__ import annotations


class StoreError(Exception):
    """Base of what the store refuses; the text is fit to show, in French then English."""


class NoSuchFolder(StoreError):
    """The folder does not exist in this mailbox."""


class FolderExists(StoreError):
    """A folder of that name already exists."""


class NoSuchMessage(StoreError):
    """The message was expunged or never existed."""


class BlobDamaged(StoreError):
    """A blob does not authenticate: the file was altered or the key is not the one that sealed it."""


class OverQuota(StoreError):
    """The mailbox has no room for what was to be added (RFC 9208 §4.4): nothing was written."""


class MessageTooLarge(StoreError):
    """A message grew past the size it was allowed."""


class StoreUnavailable(StoreError):
    """Database locked, damaged or out of space: nothing was written, try again later."""


class SeveralMailboxes(StoreError):
    """A person has several mailboxes and did not say which."""
