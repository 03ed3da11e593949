"""Signing and encrypting whole messages and entities.

Invariants: the octets signed are the octets that leave; fields that transport needs stay outside, octet for octet.
Memory: the message, its canonical form, and what is made of it; an envelope is encrypted and encoded piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from cryptography import x509

import mime
from smime import enveloped, headers, legacy_display, signed
from smime.algorithms import MICALG, ContentCipher
from smime.capabilities import DEFAULT_POLICY, OURS, Capabilities, EncryptionPolicy, Plan, Recipient, Transport, choose
from smime.headers import HeaderMode
from smime.layers import split_fields
from smime.signed import Piece, Signing

_SHORT = 64 * 1024
"""Octets of an envelope that is worth no streaming."""
_SIGNATURE_HEAD = (
    b'\r\nContent-Type: application/pkcs7-signature; name="smime.p7s"\r\nContent-Transfer-Encoding: base64\r\n'
    b'Content-Disposition: attachment; filename="smime.p7s"\r\n\r\n'
)


def sign_entity(
    entity: bytes,
    signers: Signing | Sequence[Signing],
    *,
    at: datetime,
    opaque: bool = False,
    reads: Capabilities = OURS,
) -> bytes:
    """A multipart/signed entity (RFC 8551 §3.5.3) over `entity`, a MIME entity, made canonical and 7-bit first; with
    `opaque` an application/pkcs7-mime entity that holds it (§3.5.2).

    `at`: aware, the signing time. `reads`: the capabilities stated for the signer's program. Raises UnsuitableCertificate,
    SigningFailed, KeyUnavailable."""
    return _signed(b"", (mime.to_seven_bit(entity),), signers, at, opaque, reads)


def _signed(
    outside: bytes,
    canonical: Sequence[Piece],
    signers: Signing | Sequence[Signing],
    at: datetime,
    opaque: bool,
    reads: Capabilities,
) -> bytes:
    if opaque:
        segments, _ = signed.sign(canonical, signers, at=at, detached=False, reads=reads)
        lines = mime.Base64Lines(outside + _cms_head("signed-data"), sum(map(len, segments)))
        for segment in segments:
            lines.write(segment)
        return lines.finish()
    signature, digests = signed.sign_lines(canonical, signers, at=at, reads=reads)
    micalg = ",".join([MICALG[digest] for digest in digests])
    micalg = f'"{micalg}"' if len(digests) > 1 else micalg
    delimiter = b"--" + mime.fresh_boundary().encode("ascii")
    return b"".join(
        (
            outside,
            b'Content-Type: multipart/signed; protocol="application/pkcs7-signature";\r\n micalg=',
            micalg.encode("ascii"),
            b'; boundary="',
            delimiter[2:],
            b'"\r\n\r\n',
            delimiter,
            b"\r\n",
            *canonical,
            b"\r\n",
            delimiter,
            _SIGNATURE_HEAD,
            signature,
            b"\r\n",
            delimiter,
            b"--\r\n",
        )
    )


@lru_cache
def _cms_head(kind: str) -> bytes:
    return (
        f"Content-Type: application/pkcs7-mime; smime-type={kind}; name=smime.p7m\r\n"
        "Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=smime.p7m\r\n\r\n"
    ).encode("ascii")


def encrypt_entity(
    entity: bytes,
    recipients: Sequence[Recipient | x509.Certificate],
    *,
    transport: Transport | None = None,
    cipher: ContentCipher | None = None,
    policy: EncryptionPolicy = DEFAULT_POLICY,
) -> bytes:
    """An application/pkcs7-mime entity (RFC 8551 §3.3, §3.4) with exactly `entity` inside, encrypted as `choose` decides.

    Raises UnsuitableCertificate."""
    return _sealed(b"", (entity,), choose(recipients, policy, cipher=cipher, transport=transport))


def _sealed(outside: bytes, content: Sequence[bytes | memoryview], plan: Plan) -> bytes:
    kind = "authEnveloped-data" if plan.cipher.authenticated else "enveloped-data"
    size, segments = enveloped.seal(content, plan)
    if size < _SHORT:
        return b"".join((outside, _cms_head(kind), mime.base64_lines(b"".join(segments))))
    lines = mime.Base64Lines(outside + _cms_head(kind), size)
    for segment in segments:
        lines.write(segment)
    return lines.finish()


def sign_message(
    raw: bytes,
    signers: Signing | Sequence[Signing],
    *,
    at: datetime,
    opaque: bool = False,
    protect: HeaderMode | None = None,
    reads: Capabilities = OURS,
) -> bytes:
    """A whole message signed: Content-* and MIME-Version move into the signed entity, other fields stay outside; with
    `protect` copies of From, To, Subject, Date, Message-ID and their like are signed too (RFC 9788).

    `protect=HeaderMode.CIPHER` hides the Subject outside, and shows it at the head of the text (`legacy_display`): for a message
    that is then encrypted. `reads`: the capabilities stated for the program that opens what is sent to the signer."""
    outside, inside, start = split_fields(raw)
    is_ready = mime.is_seven_bit(raw)
    if not is_ready:
        outside = mime.canonical_header(outside)
    body: Piece = memoryview(raw)[start:]
    if protect is not None:
        outside, inside, body = _protected(outside, inside, body, protect)
    entity = (inside, b"\r\n", body)
    # A message that needs no change is not copied: its body goes into the signature from where it is.
    canonical = entity if is_ready else (mime.to_seven_bit(b"".join(entity)),)
    return _signed(outside + _VERSION, canonical, signers, at, opaque, reads)


_VERSION = b"MIME-Version: 1.0\r\n"


def _protected(outside: bytes, inside: bytes, body: Piece, mode: HeaderMode) -> tuple[bytes, bytes, Piece]:
    """(transport fields, content fields, body) with protected fields."""
    subject = next(iter(mime.values_of(outside, "subject")), "") if mode is HeaderMode.CIPHER else ""
    if subject:
        entity = legacy_display.with_subject(b"".join((inside, b"\r\n", body)), mime.decode_words(subject))
        last, start = mime.header_end(entity)
        inside, body = entity[:last], memoryview(entity)[start:]
    return *headers.protect(outside, inside, mode), body


def encrypt_message(
    raw: bytes,
    recipients: Sequence[Recipient | x509.Certificate],
    *,
    transport: Transport | None = None,
    cipher: ContentCipher | None = None,
    policy: EncryptionPolicy = DEFAULT_POLICY,
    sender: Recipient | x509.Certificate | None = None,
    protect: HeaderMode | None = None,
) -> bytes:
    """A whole message encrypted: its content fields and body go inside, octet for octet; other fields stay readable.

    Cipher and transport are chosen by `policy` and what the recipients read, unless given. `sender`, the sender's own
    certificate, becomes a recipient when the policy says so. `protect` is for a message that is not signed, which may then
    change as in `sign_message`; one that is takes it when signed. Raises UnsuitableCertificate."""
    outside, inside, start = split_fields(raw)
    outside = mime.canonical_header(outside)
    body: Piece = memoryview(raw)[start:]
    if protect is not None:
        outside, inside, body = _protected(outside, inside, body, protect)
    everybody = [*recipients, sender] if sender is not None and policy.to_sender and recipients else recipients
    plan = choose(everybody, policy, cipher=cipher, transport=transport)
    return _sealed(outside + _VERSION, (inside + b"\r\n", body), plan)
