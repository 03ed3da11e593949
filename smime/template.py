"""Detached signatures made from a mould: what stays the same from one message to the next is encoded once.

Invariants: a mould is cut from what the general writer (signed_codec.py) wrote, at the places of the four values that
change, so that both write the same octets; it holds nothing of a key; moulds are bounded in number, and each belongs to
one certificate chain, compared as the very object that the signer holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import mime
from smime import attributes, der, signed_codec
from smime.algorithms import HASHES, Mechanism
from smime.capabilities import OURS, Capabilities
from smime.keys import fitting

MAX_MOULDS = 1024
_MARK = bytes.fromhex("c5a9d1b07e2f48639a1c5be07d34f2861b6a90e3d758c24f")
_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Mould:
    """The DER of a detached SignedData of one signer, cut round signing time, message digest and signature. `attributes`:
    before the time, between time and digest, after the digest, of the SET that is signed."""

    chain: tuple[x509.Certificate, ...]
    encoded: tuple[bytes, ...]
    mechanism: Mechanism
    attributes: tuple[bytes, bytes, bytes]
    frames: dict[int, tuple[bytes, bytes, bytes]] = field(default_factory=dict)

    def signed(self, digest: bytes, at: bytes) -> bytes:
        """The attributes to sign; `at` as `utc_time` gives it."""
        before, between, after = self.attributes
        return b"".join((before, at, between, digest, after))

    def write(self, signed: bytes, signature: bytes) -> bytes:
        """The ContentInfo with these attributes (as `signed` gives them) and their signature, in lines of base64."""
        lines, before, after = self.frames.get(len(signature)) or self._frame(signed, len(signature))
        return lines + mime.base64_lines(b"".join((before, memoryview(signed)[1:], after, signature)))

    def _frame(self, signed: bytes, size: int) -> tuple[bytes, bytes, bytes]:
        """What stands before the attributes, as far as it fills lines of base64 in these, then as it is; and what stands
        between the attributes and a signature of `size` octets."""
        stand_in = _stand_in(size)
        info = signed_codec.signer_info(self.encoded[0], self.mechanism, signed, stand_in)
        whole = b"".join(
            signed_codec.write_signed(
                certificates=list(dict.fromkeys(self.encoded)), digests=[self.mechanism.digest], signers=[info]
            )
        )
        place = whole.rindex(signed[1:])
        full = place - place % mime.LINE_OCTETS
        lines = mime.base64_lines(whole[:full])
        self.frames[size] = lines, whole[full:place], whole[place + len(signed) - 1 : -size]
        return self.frames[size]


def _stand_in(size: int) -> bytes:
    return (_MARK * (size // len(_MARK) + 1))[:size]


_moulds: dict[tuple[int, Mechanism | None, Capabilities | None], Mould] = {}


def mould(chain: tuple[x509.Certificate, ...], mechanism: Mechanism | None, reads: Capabilities = OURS) -> Mould:
    """The mould of a chain, leaf first, a mechanism, None for the usual one of its key, and stated capabilities. Raises
    UnsuitableCertificate."""
    key = (id(chain), mechanism, None if reads is OURS else reads)
    found = _moulds.get(key)
    if found is None or found.chain is not chain:  # an identity is given again after the end of its object
        found = _cut(chain, fitting(chain[0], mechanism), reads)
        if len(_moulds) >= MAX_MOULDS:
            _moulds.clear()
        _moulds[key] = found
    return found


def _cut(chain: tuple[x509.Certificate, ...], mechanism: Mechanism, reads: Capabilities) -> Mould:
    encoded = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
    digest = _stand_in(HASHES[mechanism.digest]().digest_size)
    fingerprint = hashlib.sha256(encoded[0]).digest()
    whole = attributes.write(digest, encoded[0], fingerprint, _MOMENT, reads)
    # In DER's order the signing time, which is shorter, comes before the message digest.
    time = der.time(_MOMENT)[2:]
    place, at = whole.index(digest), whole.index(time)
    pieces = whole[:at], whole[at + len(time) : place], whole[place + len(digest) :]
    return Mould(chain, encoded, mechanism, pieces)


def utc_time(at: datetime) -> bytes | None:
    """The contents of the UTCTime of a moment; None when it needs another form (RFC 5652 §11.3)."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    if not 2000 <= utc.year < 2050:
        return None
    return b"%02d%02d%02d%02d%02d%02dZ" % (utc.year - 2000, utc.month, utc.day, utc.hour, utc.minute, utc.second)
