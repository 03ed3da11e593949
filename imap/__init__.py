"""An IMAP server (RFC 9051, RFC 3501) over the mailstore. It serves messages byte for byte and never looks inside S/MIME."""

from imap.limits import Limits
from imap.server import ImapServer, TokenVerifier
from imap.summary import Summary, summarise

__all__ = ["ImapServer", "Limits", "Summary", "TokenVerifier", "summarise"]
