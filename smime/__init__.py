"""S/MIME over bytes (RFC 8551): sign, verify, encrypt, open. Pure: keys and moments are passed in, nothing is read or
written elsewhere. Keys in a PKCS#11 token: `smime.pkcs11`, imported apart."""

from smime.algorithms import ContentCipher, Mechanism
from smime.capabilities import COMMON, OURS, Capabilities, EncryptionPolicy, Plan, Recipient, Transport, choose
from smime.coverage import Coverage, NestedLayer, PartCoverage, Survey, Through
from smime.enveloped import can_receive
from smime.errors import (
    DecryptionFailed,
    KeyUnavailable,
    MalformedCms,
    NotForUs,
    OpeningFailure,
    SigningFailed,
    SmimeError,
    TooLarge,
    UnsuitableCertificate,
    UnsupportedCms,
    UnwrapFailed,
)
from smime.headers import HeaderMode, ProtectedHeaders
from smime.identity import addresses, may_receive_keys, may_sign_mail, national_id, speaks_for
from smime.keys import (
    Decryptor,
    KeyTransport,
    Signer,
    SoftwareDecryptor,
    SoftwareSigner,
    mechanism_for,
    mechanisms_of,
)
from smime.layers import LayerKind, clear_entity, outermost
from smime.memory import CapabilityMemory
from smime.messages import encrypt_entity, encrypt_message, sign_entity, sign_message
from smime.opening import Opened, open_message, verify_message
from smime.policy import ReadingPolicy, WeakAllowance
from smime.verdict import Finding, Findings, Judging, Note, PathChecker, PathResult, Reason, Verdict, Verification

__all__ = [
    "COMMON",
    "OURS",
    "Capabilities",
    "CapabilityMemory",
    "ContentCipher",
    "Coverage",
    "DecryptionFailed",
    "Decryptor",
    "EncryptionPolicy",
    "Finding",
    "Findings",
    "HeaderMode",
    "Judging",
    "KeyTransport",
    "KeyUnavailable",
    "LayerKind",
    "MalformedCms",
    "Mechanism",
    "NestedLayer",
    "NotForUs",
    "Note",
    "Opened",
    "OpeningFailure",
    "PartCoverage",
    "PathChecker",
    "PathResult",
    "Plan",
    "ProtectedHeaders",
    "ReadingPolicy",
    "Reason",
    "Recipient",
    "Signer",
    "SigningFailed",
    "SmimeError",
    "SoftwareDecryptor",
    "SoftwareSigner",
    "Survey",
    "Through",
    "TooLarge",
    "Transport",
    "UnsuitableCertificate",
    "UnsupportedCms",
    "UnwrapFailed",
    "Verdict",
    "Verification",
    "WeakAllowance",
    "addresses",
    "can_receive",
    "choose",
    "clear_entity",
    "encrypt_entity",
    "encrypt_message",
    "may_receive_keys",
    "may_sign_mail",
    "mechanism_for",
    "mechanisms_of",
    "national_id",
    "open_message",
    "outermost",
    "sign_entity",
    "sign_message",
    "speaks_for",
    "verify_message",
]
