"""Errors meant for people: one line that says what happened, to what, and what to do. They end a command with code 2."""

from __future__ import annotations


class UsageError(Exception):
    """Something the person at the keyboard can mend. The text is complete; no traceback is shown."""
