"""Which mailboxes and structures deposit: on sending, on receiving, both, or never.

The most precise word counts: the mailbox's, else its structure's, else the operator's. A mailbox of type APP whose
local part is `dmp`
(`dmp@…`) deposits what it *receives* unless told otherwise: that is what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mailstore.model import Account, MailboxKind


class Mode(StrEnum):
    """When the documents of a mailbox's messages are deposited."""

    SENDING = "sending"
    RECEIVING = "receiving"
    BOTH = "both"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Policy:
    """`mailboxes` by address, `structures` by Struct_IdNat."""

    default: Mode = Mode.SENDING
    mailboxes: Mapping[str, Mode] = field(default_factory=dict)
    structures: Mapping[str, Mode] = field(default_factory=dict)

    def mode(self, account: Account) -> Mode:
        """The word that counts for a mailbox."""
        told = self.mailboxes.get(account.address) or self.structures.get(account.national_id)
        if told is not None:
            return told
        if (
            account.kind is MailboxKind.APP
            and account.address.partition("@")[0] == "dmp"
            and self.default is not Mode.NEVER
        ):
            return Mode.RECEIVING
        return self.default

    def on_sending(self, account: Account) -> bool:
        """True when what this mailbox sends is deposited."""
        return self.mode(account) in (Mode.SENDING, Mode.BOTH)

    def on_receiving(self, account: Account) -> bool:
        """True when what this mailbox receives is deposited."""
        return self.mode(account) in (Mode.RECEIVING, Mode.BOTH)
