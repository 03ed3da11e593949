"""LDAP transactions (RFC 5805): many changes that the server makes all together, in one durable write, or not at all.

Why: a change of one entry rewrites the pages of some two hundred index keys; a hundred changes in one transaction
rewrite most of them once. slapd's back-mdb offers them since 2.5; readers go on seeing the state before.
Invariants: what a transaction refuses has changed nothing; servers without transactions are told by `supported`.
"""

from __future__ import annotations

from typing import Any, Final

import ldap
from ldap.controls import RequestControl
from ldap.extop import ExtendedRequest

_START: Final = "1.3.6.1.1.21.1"
_SPECIFICATION: Final = "1.3.6.1.1.21.2"
_END: Final = "1.3.6.1.1.21.3"


class _Request(ExtendedRequest):  # type: ignore[misc]  # python-ldap is untyped
    def __init__(self, name: str, value: bytes | None = None) -> None:
        self.requestName = name
        self._value = value

    def encodedRequestValue(self) -> bytes | None:
        return self._value


def supported(connection: Any) -> bool:
    """Whether the server makes transactions. Raises ldap.LDAPError."""
    root = connection.read_rootdse_s(attrlist=["supportedExtension"])
    return _START.encode() in root.get("supportedExtension", [])


def begin(connection: Any) -> RequestControl:
    """Start a transaction; the control goes with each of its changes. Raises ldap.LDAPError."""
    _, identifier = connection.extop_s(_Request(_START))
    return RequestControl(_SPECIFICATION, True, identifier or b"")


def commit(connection: Any, control: RequestControl) -> None:
    """Make the changes of a transaction, all or none. Raises ldap.LDAPError when one is refused."""
    identifier: bytes = control.encodedControlValue
    if len(identifier) > 120:
        raise ldap.PROTOCOL_ERROR({"desc": "transaction identifier too long"})
    # txnEndReq ::= SEQUENCE { commit BOOLEAN DEFAULT TRUE, identifier OCTET STRING } (RFC 5805 §2.1)
    value = b"\x30" + bytes([len(identifier) + 2]) + b"\x04" + bytes([len(identifier)]) + identifier
    connection.extop_s(_Request(_END, value))
