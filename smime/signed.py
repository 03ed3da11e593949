"""Signing bytes into a SignedData (RFC 5652 §5, RFC 8551 §2).

Invariants: what is signed is the exact octets given; keys act through `Signer` alone; the answer of a key that is not in
memory is verified before it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

import mime
from smime import attributes, signed_codec, template
from smime.algorithms import HASHES, Mechanism
from smime.capabilities import OURS, Capabilities
from smime.errors import SigningFailed, UnsuitableCertificate
from smime.keys import Signer, SoftwareSigner, fitting, public_key, signature_padding

Piece = bytes | memoryview
Signing = Signer | tuple[Signer, Mechanism]
"""A signer, alone with its usual mechanism or with the one to use."""


def sign(
    content: bytes | Sequence[Piece],
    signers: Signing | Sequence[Signing],
    *,
    at: datetime,
    detached: bool = True,
    reads: Capabilities = OURS,
) -> tuple[list[Piece], tuple[str, ...]]:
    """(DER SignedData over exactly `content`, whole or in pieces, in segments to be joined; digest names such as `sha256`).

    Raises UnsuitableCertificate for a key that cannot sign so, SigningFailed when a signer's answer does not verify (a
    card or HSM holding another key than its certificate's), KeyUnavailable."""
    pieces = (content,) if isinstance(content, bytes) else tuple(content)
    digests: dict[str, bytes] = {}
    infos: list[bytes] = []
    certificates: dict[bytes, None] = {}
    for signer, mechanism in _each(signers):
        name = mechanism.digest
        if name not in digests:
            digests[name] = _digest(name, pieces)
        chain = [_encoded(certificate) for certificate in signer.chain]
        certificates.update(dict.fromkeys(chain))
        signed = attributes.write(digests[name], chain[0], _fingerprint(chain[0]), at, reads)
        infos.append(signed_codec.signer_info(chain[0], mechanism, signed, _sign(signer, mechanism, signed)))
    written = signed_codec.write_signed(
        certificates=list(certificates), digests=list(digests), signers=infos, content=None if detached else pieces
    )
    return written, tuple(digests)


def sign_lines(
    pieces: Sequence[Piece], signers: Signing | Sequence[Signing], *, at: datetime, reads: Capabilities = OURS
) -> tuple[bytes, tuple[str, ...]]:
    """`sign`, detached, in lines of base64; from a mould when there is one signer, as nearly always."""
    moment, single = template.utc_time(at), _single(signers)
    if moment is None or single is None:
        segments, digests = sign(pieces, signers, at=at, reads=reads)
        return mime.base64_lines(b"".join(segments)), digests
    signer, mechanism = single
    mould = template.mould(signer.chain, mechanism, reads)
    signed = mould.signed(_digest(mould.mechanism.digest, pieces), moment)
    return mould.write(signed, _sign(signer, mould.mechanism, signed)), (mould.mechanism.digest,)


_DIGESTS = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


def _digest(name: str, pieces: Sequence[Piece]) -> bytes:
    state = _DIGESTS[name]()
    for piece in pieces:
        state.update(piece)
    return state.digest()


@lru_cache(maxsize=1024)
def _encoded(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@lru_cache(maxsize=1024)
def _fingerprint(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def _single(signers: Signing | Sequence[Signing]) -> tuple[Signer, Mechanism | None] | None:
    """The one signer, with the mechanism asked for; None when there are several, or none."""
    if isinstance(signers, tuple) and len(signers) == 2 and isinstance(signers[1], Mechanism):
        return signers
    if isinstance(signers, SoftwareSigner) or not isinstance(signers, Sequence):
        return signers, None
    if len(signers) != 1:
        return None
    one = signers[0]
    return one if isinstance(one, tuple) else (one, None)


def _each(signers: Signing | Sequence[Signing]) -> list[tuple[Signer, Mechanism]]:
    """Every signer with its mechanism, which must fit its key."""
    single = _single(signers)
    wanted: Any = signers if single is None else [single]
    if not 1 <= len(wanted) <= signed_codec.MAX_SIGNERS:
        raise UnsuitableCertificate("between 1 and 16 signers are needed")
    pairs = [item if isinstance(item, tuple) else (item, None) for item in wanted]
    return [(signer, fitting(signer.chain[0], mechanism)) for signer, mechanism in pairs]


def _sign(signer: Signer, mechanism: Mechanism, signed: bytes) -> bytes:
    is_direct = mechanism is Mechanism.ED25519
    digest = signed if is_direct else _digest(mechanism.digest, (signed,))
    signature = signer.sign(digest, mechanism)
    # A software key was matched with its certificate, and OpenSSL checks its own results; a card may hold another key.
    if not isinstance(signer, SoftwareSigner) and not is_signature(signer.chain[0], mechanism, digest, signature):
        raise SigningFailed("the signer's signature does not verify")
    return signature


def is_signature(certificate: x509.Certificate, mechanism: Mechanism, digest: bytes, signature: bytes) -> bool:
    """Whether `signature` is over `digest` by the certificate's key."""
    key = public_key(certificate)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, digest)
            return mechanism is Mechanism.ED25519
        algorithm = HASHES[mechanism.digest]()
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, signature_padding(mechanism, algorithm), Prehashed(algorithm))
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, digest, ec.ECDSA(Prehashed(algorithm)))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
