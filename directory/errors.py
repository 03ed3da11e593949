"""The error family of the directory room.

Invariants: the text is in French first, then English, says what to do where there is something to do, and never holds
an identifier of a person, a search term, a password or an entry's content.
"""

from __future__ import annotations


class DirectoryError(Exception):
    """The directory answered, or was asked, something it cannot do: a permanent cause until somebody changes
    something.
    """


class DirectoryUnavailable(DirectoryError):
    """The directory cannot be reached or did not answer in time: a temporary cause; the caller defers, never passes."""


class TooManyEntries(DirectoryError):
    """A search meets more entries than the limit: the person searching must add a criterion."""


class InvalidIdentifier(ValueError):
    """A national identifier that is not one. The text names the kind of identifier, never the value given."""
