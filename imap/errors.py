"""The two ways a command fails: it is not IMAP (BAD), or it is refused (NO with a response code of RFC 5530)."""

from __future__ import annotations


class BadCommand(Exception):
    """The command is not well formed, or not allowed in this state: tagged BAD. `tag` is None when no tag could be read.

    The text is fit to send: it never repeats what the client sent.
    """

    def __init__(self, text: str, *, tag: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.tag = tag


class Refused(Exception):
    """The command is well formed but not carried out: tagged NO. `code` is a response code without brackets, or empty.

    `tag` is the command's when the parser refused it. After a `final` refusal the connection ends.
    """

    def __init__(self, code: str, text: str, *, final: bool = False, tag: str | None = None) -> None:
        super().__init__(text)
        self.tag = tag
        self.code = code
        self.text = text
        self.final = final


class EndSession(Exception):
    """The server ends the conversation with an untagged BYE; then the connection is closed."""

    def __init__(self, text: str, *, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class ConnectionGone(Exception):
    """The client went away, or stopped reading for too long."""
