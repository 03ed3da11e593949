"""What a mailbox's policy asks for. Values only; where they come from is the program's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mailstore.model import MailboxKind


class SignPolicy(StrEnum):
    """When the server signs a clear message for its sender."""

    ALWAYS = "always"
    WITH_CODE = "with_code"


class EncryptPolicy(StrEnum):
    """What happens when a recipient has no certificate in the directory."""

    REQUIRED = "required"
    WHEN_POSSIBLE = "when_possible"


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """The operator's policy, by kind of mailbox."""

    sign: Mapping[MailboxKind, SignPolicy]
    encrypt: EncryptPolicy
