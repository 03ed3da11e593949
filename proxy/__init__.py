"""Signing and encrypting for people and gateways without a card: send codes, server-side keys, protection of a message."""

from proxy.codes import CODE_FIELD, SendCode, new_code
from proxy.keys import KeyRing
from proxy.model import Opened, Protected, Refusal
from proxy.policy import EncryptPolicy, ProxyPolicy, SignPolicy
from proxy.protection import Protector

__all__ = [
    "CODE_FIELD",
    "EncryptPolicy",
    "KeyRing",
    "Opened",
    "Protected",
    "Protector",
    "ProxyPolicy",
    "Refusal",
    "SendCode",
    "SignPolicy",
    "new_code",
]
