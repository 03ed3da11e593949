"""Signing and encrypting for people and gateways without a card: send codes, server-side keys, protection of a message."""

from proxy.checking import CodeDesk, IssuedCode
from proxy.codes import CODE_FIELD, SendCode, new_code
from proxy.keys import KeyRing, Tokens
from proxy.model import Opened, Protected, Refusal
from proxy.policy import (
    BadPolicy,
    ConfirmPolicy,
    CustodyPolicy,
    Effective,
    EncryptPolicy,
    HeaderPolicy,
    ProxyPolicy,
    SignPolicy,
    WithoutCertificate,
    check_value,
    effective,
)
from proxy.protection import Protector
from proxy.scope import BadScope, Scope

__all__ = [
    "CODE_FIELD",
    "BadPolicy",
    "BadScope",
    "CodeDesk",
    "ConfirmPolicy",
    "CustodyPolicy",
    "Effective",
    "EncryptPolicy",
    "HeaderPolicy",
    "IssuedCode",
    "KeyRing",
    "Opened",
    "Protected",
    "Protector",
    "ProxyPolicy",
    "Refusal",
    "Scope",
    "SendCode",
    "SignPolicy",
    "Tokens",
    "WithoutCertificate",
    "check_value",
    "effective",
    "new_code",
]
