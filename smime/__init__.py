"""S/MIME over bytes (RFC 8551): sign, verify, encrypt, open. Pure: keys and moments are passed in, nothing is read or
written elsewhere."""

from smime.enveloped import Transport
from smime.errors import (
    DecryptionFailed,
    MalformedCms,
    NotForUs,
    SigningFailed,
    SmimeError,
    TooLarge,
    UnsuitableCertificate,
    UnsupportedCms,
)
from smime.identity import addresses, may_receive_keys, may_sign_mail, national_id, speaks_for
from smime.keys import Decryptor, KeyTransport, Mechanism, Signer, SoftwareDecryptor, SoftwareSigner, mechanism_for
from smime.layers import LayerKind, clear_entity, outermost
from smime.messages import (
    Opened,
    encrypt_entity,
    encrypt_message,
    open_message,
    sign_entity,
    sign_message,
    verify_message,
)
from smime.verdict import PathChecker, PathResult, Reason, Verdict, Verification

__all__ = [
    "DecryptionFailed",
    "Decryptor",
    "KeyTransport",
    "LayerKind",
    "MalformedCms",
    "Mechanism",
    "NotForUs",
    "Opened",
    "PathChecker",
    "PathResult",
    "Reason",
    "Signer",
    "SigningFailed",
    "SmimeError",
    "SoftwareDecryptor",
    "SoftwareSigner",
    "TooLarge",
    "Transport",
    "UnsuitableCertificate",
    "UnsupportedCms",
    "Verdict",
    "Verification",
    "addresses",
    "clear_entity",
    "encrypt_entity",
    "encrypt_message",
    "may_receive_keys",
    "may_sign_mail",
    "mechanism_for",
    "national_id",
    "open_message",
    "outermost",
    "sign_entity",
    "sign_message",
    "speaks_for",
    "verify_message",
]
