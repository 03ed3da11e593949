"""Signing bytes into a SignedData, and judging one.

Invariants: what is verified is the exact octets given; every check is made for every signer and all findings are
listed; nothing but the full set of passed checks is VALID; the digest named by the signature algorithm, by the signer
and by the container must be one and the same (no smuggling); judging never raises on hostile input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from smime import asn1, identity
from smime.errors import SigningFailed, SmimeError
from smime.keys import MAX_RSA_BITS, MIN_RSA_BITS, Mechanism, Signer, mechanism_for
from smime.verdict import PathChecker, Reason, Verdict, Verification

CLOCK_SKEW = timedelta(minutes=5)
_STRONG = frozenset({"sha256", "sha384", "sha512"})
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"})
_UNTRUSTED = frozenset(
    {Reason.NO_PATH_CHECKER, Reason.PATH, Reason.USAGE, Reason.CA, Reason.NOT_IN_FORCE, Reason.FUTURE}
    | {Reason.OUTSIDE_VALIDITY}
)
_WEAK = frozenset({Reason.WEAK_DIGEST, Reason.WEAK_KEY, Reason.NO_ATTRIBUTES})
_UNSUPPORTED = frozenset({Reason.ALGORITHM_UNKNOWN, Reason.KEY_UNKNOWN})

_WRITTEN = {
    Mechanism.RSA_PKCS1_SHA256: ("sha256", "rsassa_pkcs1v15"),
    Mechanism.ECDSA_SHA256: ("sha256", "sha256_ecdsa"),
    Mechanism.ECDSA_SHA384: ("sha384", "sha384_ecdsa"),
}


def sign(content: bytes, signer: Signer, *, at: datetime, detached: bool = True) -> tuple[bytes, str]:
    """(DER SignedData over exactly `content`, digest name such as `sha256`). SHA-256, SHA-384 with a P-384 key.

    Raises UnsuitableCertificate for a key that cannot sign, SigningFailed when the signer's answer does not verify (a
    card or HSM holding another key than its certificate's)."""
    mechanism = mechanism_for(signer.chain[0])
    digest, algorithm = _WRITTEN[mechanism]
    certificates = [certificate.public_bytes(Encoding.DER) for certificate in signer.chain]
    content_digest = hashlib.new(digest, content).digest()
    ess = hashlib.sha256(certificates[0]).digest()
    attributes = asn1.signed_attributes(content_digest, certificates[0], ess, at)
    signature = signer.sign(hashlib.new(digest, attributes).digest(), mechanism)
    cms = asn1.write_signed(
        certificates=certificates,
        digest=digest,
        attributes=attributes,
        signature_algorithm=algorithm,
        signature=signature,
        content=None if detached else content,
    )
    record = asn1.read_signed(cms).signers[0]
    if record.attributes != attributes or _check_signature(signer.chain[0], record, attributes) is not None:
        raise SigningFailed("the signer's signature does not verify")
    return cms, digest


def verify(
    cms: bytes, content: bytes | None, *, at: datetime, path: PathChecker | None, layer: int = 0
) -> tuple[Verification, ...]:
    """One Verification per signer, at least one. `content` is the exact octets a detached signature covers; None for an
    opaque one, which must then hold its content. `at`: now, or the moment to judge for. Never raises on hostile CMS."""
    try:
        record = asn1.read_signed(cms)
    except SmimeError:
        return (Verification(None, Verdict.INVALID, (Reason.MALFORMED,), layer=layer),)
    if content is not None and record.content is not None:
        return (Verification(None, Verdict.INVALID, (Reason.CONTENT_IN_DETACHED,), layer=layer),)
    covered = content if content is not None else record.content
    if covered is None:
        return (Verification(None, Verdict.INVALID, (Reason.NO_CONTENT,), layer=layer),)
    if not record.signers:
        return (Verification(None, Verdict.INVALID, (Reason.NO_SIGNER,), layer=layer),)
    candidates = _candidates(record.certificates)
    return tuple(_judge(record, signer, covered, candidates, at, path, layer) for signer in record.signers)


@dataclass(frozen=True, slots=True)
class _Candidate:
    certificate: x509.Certificate
    der: bytes
    name: asn1.CertificateName


def _candidates(ders: Sequence[bytes]) -> list[_Candidate]:
    """The certificates of the message that can be read, each once."""
    found: list[_Candidate] = []
    for der in dict.fromkeys(ders):
        try:
            certificate = x509.load_der_x509_certificate(der)
            name = asn1.certificate_name(der)
            _ = (certificate.subject, certificate.issuer, certificate.not_valid_before_utc)  # read on demand: now
            _ = (certificate.not_valid_after_utc, certificate.serial_number)
        except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm, SmimeError):
            continue
        found.append(_Candidate(certificate, der, name))
    return found


def _judge(
    record: asn1.SignedRecord,
    signer: asn1.SignerRecord,
    content: bytes,
    candidates: Sequence[_Candidate],
    at: datetime,
    path: PathChecker | None,
    layer: int,
) -> Verification:
    reasons = _structure_reasons(record, signer) + _digest_reasons(signer, content)
    signed = signer.attributes if signer.attributes is not None else content
    chosen, found = _choose(signer, candidates, signed)
    reasons += found
    if chosen is None:
        return Verification(
            None, _verdict(reasons), tuple(dict.fromkeys(reasons)), (), None, signer.signing_time, layer
        )
    certificate = chosen.certificate
    reasons += _certificate_reasons(certificate, signer.signing_time, at)
    texts: list[str] = []
    if path is None:
        reasons.append(Reason.NO_PATH_CHECKER)
    else:
        others = [other.certificate for other in candidates if other is not chosen]
        result = path(certificate, others, at)
        if result.trusted is not True:
            reasons.append(Reason.PATH)
            texts.append(result.reason)
    return Verification(
        signer_certificate=certificate,
        verdict=_verdict(reasons),
        reasons=(*dict.fromkeys(reasons), *texts),
        addresses=identity.addresses(certificate),
        national_id=identity.national_id(certificate),
        signed_at=signer.signing_time,
        layer=layer,
    )


def _verdict(reasons: Sequence[Reason]) -> Verdict:
    """The worst finding decides; an unknown reason counts as INVALID."""
    found = set(reasons)
    if found - _UNTRUSTED - _WEAK - _UNSUPPORTED:
        return Verdict.INVALID
    for family, verdict in (
        (_UNSUPPORTED, Verdict.UNSUPPORTED),
        (_UNTRUSTED, Verdict.UNTRUSTED),
        (_WEAK, Verdict.WEAK),
    ):
        if found & family:
            return verdict
    return Verdict.VALID


def _structure_reasons(record: asn1.SignedRecord, signer: asn1.SignerRecord) -> list[Reason]:
    reasons: list[Reason] = []
    if signer.faults:
        reasons.append(Reason.ATTRIBUTES)
    if record.content_type != "data":
        reasons.append(Reason.CONTENT_TYPE)
    if signer.attributes is None:
        # Allowed by RFC 5652 for data, yet open to swapping attributes and content; no mail program leaves them out.
        reasons.append(Reason.NO_ATTRIBUTES)
    elif signer.content_type != record.content_type:
        reasons.append(Reason.CONTENT_TYPE)
    named = _digest_of(signer)
    protected = signer.protection
    if (
        signer.digest not in record.digests
        or (named is not None and named != signer.digest)
        or (protected is not None and protected != (signer.digest, signer.signature_algorithm))
    ):
        reasons.append(Reason.ALGORITHMS)
    return reasons


def _digest_of(signer: asn1.SignerRecord) -> str | None:
    """The digest that the signature algorithm itself names, None when it names none (rsaEncryption)."""
    if signer.pss is not None:
        return signer.pss[0] if signer.pss[0] == signer.pss[1] else "disagreeing"
    algorithm = signer.signature_algorithm
    return algorithm.rsplit("_", 1)[0] if algorithm.endswith(("_rsa", "_ecdsa", "_dsa")) else None


def _digest_reasons(signer: asn1.SignerRecord, content: bytes) -> list[Reason]:
    if signer.digest not in _HASHES:
        return [Reason.ALGORITHM_UNKNOWN]
    reasons = [] if signer.digest in _STRONG else [Reason.WEAK_DIGEST]
    if signer.attributes is not None:
        digest = hashlib.new(signer.digest, content, usedforsecurity=False).digest()
        if signer.message_digest != digest:
            reasons.append(Reason.DIGEST)
    return reasons


def _choose(
    signer: asn1.SignerRecord, candidates: Sequence[_Candidate], signed: bytes
) -> tuple[_Candidate | None, list[Reason]]:
    """The signer's certificate: named by the full issuer and serial number, or by the key identifier, confirmed by
    every signingCertificate attribute there is, and whose key made the signature; with the findings against it."""
    if isinstance(signer.sid, bytes):
        named = [item for item in candidates if item.name.key_identifier == signer.sid]
    else:
        sid = (signer.sid.issuer, signer.sid.serial)
        named = [item for item in candidates if (item.name.issuer, item.name.serial) == sid]
    if not named:
        return None, [Reason.NO_CERTIFICATE]
    confirmed = [item for item in named if all(_is_meant(item.der, ess) for ess in signer.ess)]
    if not confirmed:
        return None, [Reason.OTHER_CERTIFICATE]
    checked = [(item, _check_signature(item.certificate, signer, signed)) for item in confirmed]
    chosen, reason = min(checked, key=lambda pair: pair[1] is not None)
    reasons = [] if reason is None else [reason]
    if isinstance(signer.sid, bytes) and not signer.ess and len(confirmed) > 1:
        # One key, several certificates, and nothing signed says which: nobody can be named.
        reasons.append(Reason.OTHER_CERTIFICATE)
    return chosen, reasons + _key_reasons(chosen.certificate)


def _is_meant(der: bytes, ess: asn1.EssId) -> bool:
    return ess.digest in _HASHES and hashlib.new(ess.digest, der, usedforsecurity=False).digest() == ess.value


def _key_reasons(certificate: x509.Certificate) -> list[Reason]:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return [Reason.KEY_UNKNOWN]
    if isinstance(key, rsa.RSAPublicKey):
        return [Reason.WEAK_KEY] if key.key_size < MIN_RSA_BITS else []
    if isinstance(key, ec.EllipticCurvePublicKey):
        return [] if key.curve.name in _CURVES else [Reason.WEAK_KEY]
    return [Reason.KEY_UNKNOWN]


def _check_signature(certificate: x509.Certificate, signer: asn1.SignerRecord, signed: bytes) -> Reason | None:
    """None when the certificate's key made the signature over `signed`."""
    if signer.digest not in _HASHES:
        return Reason.ALGORITHM_UNKNOWN
    algorithm = _HASHES[signer.digest]()
    name = signer.signature_algorithm
    try:
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey) and key.key_size <= MAX_RSA_BITS:
            if signer.pss is not None:
                if signer.pss[0] != signer.digest or signer.pss[1] != signer.digest or not 0 <= signer.pss[2] <= 512:
                    return Reason.ALGORITHMS
                key.verify(signer.signature, signed, padding.PSS(padding.MGF1(algorithm), signer.pss[2]), algorithm)
            elif name == "rsassa_pkcs1v15" or name.endswith("_rsa"):
                key.verify(signer.signature, signed, padding.PKCS1v15(), algorithm)
            else:
                return Reason.ALGORITHMS
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if not name.endswith("ecdsa"):
                return Reason.ALGORITHMS
            key.verify(signer.signature, signed, ec.ECDSA(algorithm))
        else:
            return Reason.KEY_UNKNOWN
    except InvalidSignature:
        return Reason.SIGNATURE
    except UnsupportedAlgorithm:
        return Reason.ALGORITHM_UNKNOWN
    except ValueError:
        return Reason.SIGNATURE
    return None


def _certificate_reasons(certificate: x509.Certificate, signed_at: datetime | None, at: datetime) -> list[Reason]:
    reasons: list[Reason] = []
    if identity.is_authority(certificate):
        reasons.append(Reason.CA)
    if not identity.may_sign_mail(certificate):
        reasons.append(Reason.USAGE)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= at <= ends:
        reasons.append(Reason.NOT_IN_FORCE)
    if signed_at is not None:
        if signed_at > at + CLOCK_SKEW:
            reasons.append(Reason.FUTURE)
        if not begins - CLOCK_SKEW <= signed_at <= ends:
            reasons.append(Reason.OUTSIDE_VALIDITY)
    return reasons
