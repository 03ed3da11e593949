"""Short ways to the inner functions of smime, shared by its tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from smime import choose, codec, der, enveloped, enveloped_codec, judge, signed, signed_codec
from smime.algorithms import SIGNATURE_IDENTIFIERS, ContentCipher, Mechanism, digest_identifier
from smime.signed import Signing
from smime.verdict import Judging, PathChecker, Verification


def sign_cms(content: bytes, signer: Signing, *, at: datetime, detached: bool = True) -> bytes:
    """DER of a SignedData."""
    return b"".join(signed.sign(content, signer, at=at, detached=detached)[0])


def verify_cms(
    cms: bytes, content: bytes | None, *, at: datetime, path: PathChecker | None
) -> tuple[Verification, ...]:
    return judge.verify(cms, content, Judging(at, path))


def encrypt_cms(content: bytes, certificates: Sequence[x509.Certificate]) -> bytes:
    """DER of an envelope under the default policy."""
    return enveloped.encrypt(content, choose(certificates))


def write_signed(
    *,
    certificates: list[bytes],
    attributes: bytes,
    signature: bytes,
    digest: str = "sha256",
    content: bytes | None = None,
    mechanism: Mechanism = Mechanism.RSA_PKCS1_SHA256,
) -> bytes:
    """DER of a SignedData by the holder of the first certificate; `digest` may be another than the mechanism's."""
    info = signer_info(certificates[0], digest, mechanism, attributes, signature)
    return b"".join(
        signed_codec.write_signed(
            certificates=certificates, digests=[digest], signers=[info], content=None if content is None else [content]
        )
    )


def write_enveloped(recipients: Sequence[tuple[bytes, bytes, str | None]], *, iv: bytes, ciphertext: bytes) -> bytes:
    """DER of an AES-256-CBC envelope with these (certificate, encrypted key, OAEP hash)."""
    infos = [enveloped_codec.transport_info(*one) for one in recipients]
    before, _ = enveloped_codec.write_enveloped(infos, cipher=ContentCipher.AES256_CBC, iv=iv, size=len(ciphertext))
    return b"".join([before, ciphertext])


def signer_info(certificate: bytes, digest: str, mechanism: Mechanism, attributes: bytes, signature: bytes) -> bytes:
    """DER of a SignerInfo that names any digest, also one that we never write."""
    return der.sequence(
        der.integer(1),
        codec.issuer_and_serial(certificate),
        digest_identifier(digest),
        b"\xa0" + attributes[1:],
        SIGNATURE_IDENTIFIERS[mechanism],
        der.octets(signature),
    )
