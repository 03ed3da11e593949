"""Signing, encrypting, opening and verifying whole messages.

Invariants: the octets signed are the octets that leave; `open_message` takes off encryption and leaves signed octets
alone; size and number of layers are bounded; what cannot be opened is reported in `problems`, by fixed words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

import mime
from smime import enveloped, signed
from smime.enveloped import Transport
from smime.errors import SmimeError, TooLarge
from smime.keys import Decryptor, Signer
from smime.layers import MAX_LAYERS, Layer, LayerKind, around, opaque_content, outermost, split_message
from smime.verdict import PathChecker, Reason, Verdict, Verification

MAX_SIZE = 100 * 1024 * 1024
_MICALG = {"sha256": "sha-256", "sha384": "sha-384"}


def sign_entity(entity: bytes, signer: Signer, *, at: datetime) -> bytes:
    """A multipart/signed entity (RFC 8551 §3.5.3) over `entity`, a MIME entity, made canonical and 7-bit first.

    `at`: aware, the signing time. Raises UnsuitableCertificate, SigningFailed."""
    canonical = mime.to_seven_bit(entity)
    cms, digest = signed.sign(canonical, signer, at=at)
    signature = mime.leaf("application/pkcs7-signature", cms, filename="smime.p7s", parameters={"name": "smime.p7s"})
    parameters = {"protocol": "application/pkcs7-signature", "micalg": _MICALG[digest]}
    return mime.multipart("signed", [canonical, signature], parameters=parameters)


def encrypt_entity(
    entity: bytes, recipients: Sequence[x509.Certificate], *, transport: Transport = Transport.PKCS1
) -> bytes:
    """An application/pkcs7-mime entity (RFC 8551 §3.3) with exactly `entity` inside, AES-256-CBC.

    Raises UnsuitableCertificate."""
    cms = enveloped.encrypt(entity, recipients, transport=transport)
    parameters = {"smime-type": "enveloped-data", "name": "smime.p7m"}
    return mime.leaf("application/pkcs7-mime", cms, filename="smime.p7m", parameters=parameters)


def sign_message(raw: bytes, signer: Signer, *, at: datetime) -> bytes:
    """A whole message signed: Content-* and MIME-Version move into the signed entity, other fields stay outside."""
    outside, entity = split_message(raw)
    return around(mime.canonical_header(outside), sign_entity(entity, signer, at=at))


def encrypt_message(
    raw: bytes, recipients: Sequence[x509.Certificate], *, transport: Transport = Transport.PKCS1
) -> bytes:
    """A whole message encrypted: its content fields and body go inside, octet for octet; other fields stay readable."""
    outside, entity = split_message(raw)
    return around(mime.canonical_header(outside), encrypt_entity(entity, recipients, transport=transport))


@dataclass(frozen=True, slots=True)
class Opened:
    """`content`: the message without the encryption layers that could be opened; a signature inside is left in place,
    byte exact. A signature *round* an opened envelope is taken off, since its content is gone; its verification stays.
    `encrypted`: there was an envelope. `opened`: and every one found was opened. `verifications`: outermost first.
    `problems`: `code` words of SmimeError. `Verification.layer` counts signatures from outside."""

    content: bytes
    encrypted: bool
    opened: bool
    verifications: tuple[Verification, ...]
    problems: tuple[str, ...]


def open_message(
    raw: bytes,
    decryptors: Sequence[Decryptor],
    *,
    at: datetime,
    path: PathChecker | None,
    max_size: int = MAX_SIZE,
) -> Opened:
    """Opens what `decryptors` can open and verifies every signature on the way. Raises TooLarge only.

    Without `path` no signature is better than UNTRUSTED. An envelope proves nothing about the sender by itself."""
    _bound(raw, max_size)
    outside, _ = split_message(raw)
    kept = current = raw
    verifications: list[Verification] = []
    encrypted = opened = False
    signatures = 0
    for _ in range(MAX_LAYERS):
        layer = outermost(current)
        if layer.kind is LayerKind.ENVELOPED:
            encrypted = True
            try:
                kept = current = around(outside, enveloped.decrypt(layer.cms, decryptors))
                opened = True
            except SmimeError as error:
                return Opened(kept, True, False, tuple(verifications), (error.code,))
            continue
        verifications += _verify_layer(layer, signatures, at, path)
        signatures += 1
        inner = _inside(layer)
        if inner is None:
            problems = ("malformed-cms",) if layer.kind is LayerKind.BROKEN else ()
            return Opened(kept, encrypted, opened, tuple(verifications), problems)
        current = around(outside, inner)
    # What lies deeper was not looked at: never report it as opened or verified.
    return Opened(kept, encrypted, False, tuple(verifications), ("too-many-layers",))


def verify_message(
    raw: bytes, *, at: datetime, path: PathChecker | None, max_size: int = MAX_SIZE
) -> tuple[Verification, ...]:
    """One Verification per signer of every signature layer that can be reached without a key, outermost first; empty
    for a message that does not claim to be signed. Raises TooLarge only."""
    return open_message(raw, (), at=at, path=path, max_size=max_size).verifications


def _verify_layer(layer: Layer, index: int, at: datetime, path: PathChecker | None) -> tuple[Verification, ...]:
    if layer.kind is LayerKind.DETACHED:
        return signed.verify(layer.cms, layer.content, at=at, path=path, layer=index)
    if layer.kind is LayerKind.OPAQUE:
        return signed.verify(layer.cms, None, at=at, path=path, layer=index)
    if layer.kind is LayerKind.BROKEN:
        return (Verification(None, Verdict.INVALID, (Reason.STRUCTURE,), layer=index),)
    return ()


def _inside(layer: Layer) -> bytes | None:
    if layer.kind is LayerKind.DETACHED:
        return layer.content
    return opaque_content(layer.cms) if layer.kind is LayerKind.OPAQUE else None


def _bound(raw: bytes, max_size: int) -> None:
    if len(raw) > max_size:
        raise TooLarge("the message is longer than allowed")
