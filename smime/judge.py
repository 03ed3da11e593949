"""Judging a SignedData: one Verification for each signer.

Invariants: what is verified is the exact octets given; every check is made for every signer and all findings are
listed; nothing but the full set of passed checks is VALID; the digest named by the signature algorithm, by the signer
and by the container must be one and the same (no smuggling); judging never raises on hostile input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from smime import asn1, codec, frames, identity
from smime.algorithms import HASHES, MAX_RSA_BITS, MICALG, MIN_RSA_BITS, STRONG_CURVES, STRONG_DIGESTS
from smime.asn1 import CertificateName
from smime.attributes import EssId
from smime.errors import SmimeError
from smime.findings import findings, verdict
from smime.keys import public_key
from smime.signed_codec import SignedRecord, SignerRecord
from smime.verdict import Finding, Judging, Note, PathResult, Reason, Verdict, Verification

CLOCK_SKEW = timedelta(minutes=5)
Content = bytes | memoryview


def verify(
    cms: bytes, content: Content | None, judging: Judging, *, layer: int = 0, micalg: str | None = None
) -> tuple[Verification, ...]:
    """One Verification per signer, at least one. `content` is the exact octets a detached signature covers; None for an
    opaque one, which must then hold its content. `micalg` is what a multipart/signed announced. Never raises on hostile
    CMS."""
    try:
        record = frames.read_signed(cms)
    except SmimeError:
        return (Verification(None, Verdict.INVALID, (Reason.MALFORMED,), layer=layer),)
    if content is not None and record.content is not None:
        return (Verification(None, Verdict.INVALID, (Reason.CONTENT_IN_DETACHED,), layer=layer),)
    covered = (content,) if content is not None else record.content
    if covered is None:
        return (Verification(None, Verdict.INVALID, (Reason.NO_CONTENT,), layer=layer),)
    if not record.signers:
        return (Verification(None, Verdict.INVALID, (Reason.NO_SIGNER,), layer=layer),)
    candidates = _candidates(record, judging.certificates)
    digests = {name: _digest(name, covered) for name in {signer.digest for signer in record.signers} if name in HASHES}
    wrong_micalg = micalg is not None and not _names(micalg, record)
    return tuple(
        _Judgement(record, signer, digests.get(signer.digest), covered, candidates, judging).verification(
            layer, wrong_micalg
        )
        for signer in record.signers
    )


_DIGESTS = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


def _digest(name: str, pieces: Iterable[Content]) -> bytes:
    make = _DIGESTS.get(name)
    state = hashlib.new(name, usedforsecurity=False) if make is None else make()
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _names(micalg: str, record: SignedRecord) -> bool:
    """Whether micalg (RFC 8551 §3.5.3.2, also in the older spellings) names every signer's digest."""
    said = {word.strip().lower().replace("-", "") for word in micalg.split(",")}
    return {MICALG.get(signer.digest, "").replace("-", "") for signer in record.signers} <= said


class _Candidate(NamedTuple):
    """A certificate, and what a judge asks of it, read once."""

    certificate: x509.Certificate
    der: bytes
    name: CertificateName
    key: object
    faults: tuple[Reason, ...]
    validity: tuple[datetime, datetime]
    addresses: tuple[str, ...]
    national_id: str | None
    elsewhere: bool = False


def _candidates(record: SignedRecord, elsewhere: Sequence[x509.Certificate]) -> list[_Candidate]:
    """The certificates of the message that can be read, each once, then those found elsewhere."""
    inside = dict.fromkeys(record.certificates)
    found = [one for one in map(_candidate, inside) if one is not None]
    for certificate in elsewhere:
        der = certificate.public_bytes(Encoding.DER)
        one = None if der in inside else _candidate(der)
        if one is not None:
            found.append(one._replace(elsewhere=True))
    return found


@lru_cache(maxsize=1024)
def _candidate(der: bytes) -> _Candidate | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        name = asn1.certificate_name(der)
        _ = (certificate.subject, certificate.issuer, certificate.serial_number)  # read on demand: now
        validity = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm, SmimeError):
        return None
    return _Candidate(
        certificate,
        der,
        name,
        public_key(certificate),
        _faults(certificate),
        validity,
        identity.addresses(certificate),
        identity.national_id(certificate),
    )


def _faults(certificate: x509.Certificate) -> tuple[Reason, ...]:
    """What makes a certificate unfit to sign mail, whatever it signs."""
    found = (Reason.CA, identity.is_authority(certificate)), (Reason.USAGE, not identity.may_sign_mail(certificate))
    return tuple(reason for reason, is_so in found if is_so)


class _Judgement:
    """One signer before the judge: reasons and notes gathered check by check."""

    def __init__(
        self,
        record: SignedRecord,
        signer: SignerRecord,
        digest: bytes | None,
        content: tuple[Content, ...],
        candidates: Sequence[_Candidate],
        judging: Judging,
    ) -> None:
        self._record, self._signer, self._judging = record, signer, judging
        self._digest, self._content, self._candidates = digest, content, candidates
        self._reasons: list[Reason] = []
        self._notes: list[Note] = []
        self._weaknesses: list[tuple[Reason, str, int]] = []
        self._path: PathResult | None = None

    def verification(self, layer: int, wrong_micalg: bool) -> Verification:
        """The verdict on this signer."""
        if wrong_micalg:
            self._notes.append(Note.MICALG)
        self._look_at_structure()
        self._look_at_digest()
        chosen = self._choose()
        sender = Finding.UNKNOWN
        if chosen is not None:
            self._look_at_certificate(chosen)
            self._look_at_path(chosen)
            sender = self._sender(chosen)
        self._allow_weaknesses()
        reasons = tuple(dict.fromkeys(self._reasons))
        texts = [str(self._path.reason)] if self._path is not None and Reason.PATH in reasons else []
        signer = self._signer
        return Verification(
            signer_certificate=None if chosen is None else chosen.certificate,
            verdict=verdict(reasons),
            reasons=(*reasons, *texts),
            addresses=() if chosen is None else chosen.addresses,
            national_id=None if chosen is None else chosen.national_id,
            signed_at=signer.attributes.signing_time,
            layer=layer,
            findings=findings(reasons, self._path, sender, found=chosen is not None),
            notes=tuple(dict.fromkeys(self._notes)),
            algorithm=f"{signer.algorithm.family}-{signer.digest}",
            capabilities=signer.attributes.capabilities,
        )

    def _look_at_structure(self) -> None:
        signer, record = self._signer, self._record
        said = signer.attributes
        if said.faults:
            self._reasons.append(Reason.ATTRIBUTES)
        if record.content_type != codec.DATA:
            self._reasons.append(Reason.CONTENT_TYPE)
        if signer.signed is None:
            # Allowed by RFC 5652 for data, yet open to swapping attributes and content; no mail program leaves them out.
            self._reasons.append(Reason.NO_ATTRIBUTES)
        elif said.content_type != record.content_type:
            self._reasons.append(Reason.CONTENT_TYPE)
        named = None if signer.algorithm.family == "ed25519" else signer.algorithm.digest
        if (
            signer.digest not in record.digests
            or (named is not None and named != signer.digest)
            or (said.protection is not None and said.protection != (signer.digest, signer.algorithm.oid))
        ):
            self._reasons.append(Reason.ALGORITHMS)

    def _look_at_digest(self) -> None:
        name = self._signer.digest
        if self._digest is None:
            self._reasons.append(Reason.ALGORITHM_UNKNOWN)
            return
        if name not in STRONG_DIGESTS:
            self._weak(Reason.WEAK_DIGEST, name, 0)
        if self._signer.signed is not None and self._signer.attributes.message_digest != self._digest:
            self._reasons.append(Reason.DIGEST)

    def _weak(self, reason: Reason, weakness: str, bits: int) -> None:
        self._reasons.append(reason)
        self._weaknesses.append((reason, weakness, bits))

    def _choose(self) -> _Candidate | None:
        """The signer's certificate: named by the full issuer and serial number, or by the key identifier, confirmed by
        every signingCertificate attribute there is, and whose key made the signature."""
        signer = self._signer
        named = [one for one in self._candidates if codec.is_named(signer.sid, one.name)]
        if not named:
            self._reasons.append(Reason.NO_CERTIFICATE)
            return None
        ess = signer.attributes.ess
        confirmed = [one for one in named if all(_is_meant(one.der, each) for each in ess)]
        if not confirmed:
            self._reasons.append(Reason.OTHER_CERTIFICATE)
            return None
        if any(not one.elsewhere for one in confirmed):
            confirmed = [one for one in confirmed if not one.elsewhere]
        checked = [(one, self._signature_reason(one.key)) for one in confirmed]
        chosen, reason = min(checked, key=lambda pair: pair[1] is not None)
        if reason is not None:
            self._reasons.append(reason)
        if chosen.elsewhere:
            self._notes.append(Note.ELSEWHERE)
        if isinstance(signer.sid, bytes) and not ess and len(confirmed) > 1:
            # One key, several certificates, and nothing signed says which: nobody can be named.
            self._reasons.append(Reason.OTHER_CERTIFICATE)
        return chosen

    def _signature_reason(self, key: object) -> Reason | None:
        """None when the key made the signature."""
        signer = self._signer
        if self._digest is None:
            return Reason.ALGORITHM_UNKNOWN
        if signer.signed is None:
            direct = b"".join(self._content) if signer.algorithm.family == "ed25519" else b""
            return _signature_reason(key, signer, direct, self._digest)
        reason = _signature_reason(key, signer, signer.signed, None)
        if reason is Reason.SIGNATURE and signer.sorted_ is not None:
            # RFC 5652 §5.4: signed is the DER encoding; some send the attributes in another order than they signed.
            reason = _signature_reason(key, signer, signer.sorted_, None)
        if signer.sorted_ is not None:
            self._notes.append(Note.ATTRIBUTES_ORDER)
        return reason

    def _look_at_certificate(self, chosen: _Candidate) -> None:
        key = chosen.key
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA_BITS:
                self._weak(Reason.WEAK_KEY, "rsa", key.key_size)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name not in STRONG_CURVES:
                self._weak(Reason.WEAK_KEY, "curve", key.key_size)
        elif not isinstance(key, ed25519.Ed25519PublicKey):
            self._reasons.append(Reason.KEY_UNKNOWN)
        self._reasons += chosen.faults
        self._reasons += _time_reasons(chosen.validity, self._signer.attributes.signing_time, self._judging.at)

    def _look_at_path(self, chosen: _Candidate) -> None:
        if self._judging.path is None:
            self._reasons.append(Reason.NO_PATH_CHECKER)
            return
        others = [other.certificate for other in self._candidates if other is not chosen]
        self._path = self._judging.path(chosen.certificate, others, self._judging.at)
        if self._path.trusted is not True:
            self._reasons.append(Reason.PATH)

    def _sender(self, chosen: _Candidate) -> Finding:
        """Does the certificate speak for the From? For every address, when From holds several."""
        wanted, owner = self._judging.sender, self._judging.owner
        if wanted is None:
            return Finding.UNKNOWN
        speaks = [
            address in chosen.addresses
            or identity.speaks_for(chosen.certificate, address, owner_id=None if owner is None else owner(address))
            for address in wanted
        ]
        return Finding.GOOD if speaks and all(speaks) else Finding.BAD

    def _allow_weaknesses(self) -> None:
        """What the operator's policy, with its dates, lets pass; noted."""
        signed_at, at = self._signer.attributes.signing_time, self._judging.at
        for reason, weakness, bits in self._weaknesses:
            if any(one.covers(weakness, bits, signed_at, at) for one in self._judging.policy.weak):
                self._reasons.remove(reason)
                self._notes.append(Note.WEAK_ALLOWED)


@lru_cache(maxsize=1024)
def _is_meant(der: bytes, ess: EssId) -> bool:
    return ess.digest in HASHES and hashlib.new(ess.digest, der, usedforsecurity=False).digest() == ess.value


def _signature_reason(key: object, signer: SignerRecord, signed: bytes, digest: bytes | None) -> Reason | None:
    """None when the key made the signature over `signed`, or over what has `digest` when that is known already."""
    family = signer.algorithm.family
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            if family != "ed25519":
                return Reason.ALGORITHMS
            key.verify(signer.signature, signed)
            return None
        algorithm = HASHES[signer.digest]()
        if digest is None:
            digest = _digest(signer.digest, (signed,))
        if isinstance(key, rsa.RSAPublicKey) and key.key_size <= MAX_RSA_BITS:
            scheme = _padding(signer)
            if scheme is None:
                return Reason.ALGORITHMS
            key.verify(signer.signature, digest, scheme, Prehashed(algorithm))
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if family != "ecdsa":
                return Reason.ALGORITHMS
            key.verify(signer.signature, digest, ec.ECDSA(Prehashed(algorithm)))
        else:
            return Reason.KEY_UNKNOWN
    except InvalidSignature:
        return Reason.SIGNATURE
    except UnsupportedAlgorithm:
        return Reason.ALGORITHM_UNKNOWN
    except ValueError:
        return Reason.SIGNATURE
    return None


def _padding(signer: SignerRecord) -> padding.AsymmetricPadding | None:
    """The RSA padding of a signature; None when its algorithm is not RSA's or disagrees with the digest."""
    if signer.algorithm.family == "rsa":
        return padding.PKCS1v15()
    pss = signer.algorithm.pss
    if pss is None or pss[:2] != (signer.digest, signer.digest) or not 0 <= pss[2] <= 512:
        return None
    return padding.PSS(padding.MGF1(HASHES[signer.digest]()), pss[2])


def _time_reasons(validity: tuple[datetime, datetime], signed_at: datetime | None, at: datetime) -> list[Reason]:
    reasons: list[Reason] = []
    begins, ends = validity
    if not begins <= at <= ends:
        reasons.append(Reason.NOT_IN_FORCE)
    if signed_at is not None:
        if signed_at > at + CLOCK_SKEW:
            reasons.append(Reason.FUTURE)
        if not begins - CLOCK_SKEW <= signed_at <= ends:
            reasons.append(Reason.OUTSIDE_VALIDITY)
    return reasons
