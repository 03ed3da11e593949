"""Findings one by one, counter cases of signed attributes, old mail under a policy with dates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

import mime
import smime
from smime import der, judge, signed_codec
from smime.algorithms import HASHES, Mechanism, digest_identifier
from smime.attributes import write as signed_attributes
from smime.verdict import Finding, Findings, Judging, Note, Reason, Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, path
from tests.smime.support import sign_cms, signer_info, write_signed
from tests.smime.test_sign_verify import CONTENT, MESSAGE, SIGNED

HOLDER = make.rsa_holder()
OWN = HOLDER.certificate.public_bytes(Encoding.DER)
GOOD = Finding.GOOD


def judged(cms: bytes, content: bytes = CONTENT, **options: object) -> smime.Verification:
    (found,) = judge.verify(cms, content, Judging(AT, path, **options))  # type: ignore[arg-type]
    return found


def attributes_of(digest: str = "sha256") -> bytes:
    value = hashlib.new(digest, CONTENT, usedforsecurity=False).digest()
    return signed_attributes(value, OWN, hashlib.sha256(OWN).digest(), AT)


def sign_bytes(data: bytes, digest: str = "sha256", key: object = HOLDER.key) -> bytes:
    hashed = hashlib.new(digest, data, usedforsecurity=False).digest()
    return key.sign(hashed, padding.PKCS1v15(), Prehashed(HASHES[digest]()))  # type: ignore[attr-defined,no-any-return]


def elements(attributes: bytes) -> list[bytes]:
    from smime import ber

    whole = ber.only(attributes, 0x31)
    return [attributes[one[1] : one[3]] for one in ber.children(attributes, whole, 64)]


def test_every_finding_of_a_good_signature() -> None:
    (found,) = smime.verify_message(SIGNED, at=AT, path=path)
    assert found.findings == Findings(GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD)


@pytest.mark.parametrize(
    ("sender", "owner", "finding"),
    [
        (b"medecin@test.mssante.fr", None, Finding.GOOD),
        (b"MEDECIN@TEST.mssante.fr", None, Finding.GOOD),
        (b"other@test.mssante.fr", None, Finding.BAD),
        (b"other@test.mssante.fr", make.PERSON_ID, Finding.GOOD),
        (b"medecin@test.mssante.fr, other@test.mssante.fr", None, Finding.BAD),
        (b"medecin@test.mssante.fr <other@test.mssante.fr>", None, Finding.BAD),
        (b"undisclosed:;", None, Finding.BAD),
    ],
)
def test_is_the_signer_the_from(sender: bytes, owner: str | None, finding: Finding) -> None:
    raw = SIGNED.replace("Médecin <medecin@test.mssante.fr>".encode(), sender, 1)
    (found,) = smime.verify_message(raw, at=AT, path=path, owner=lambda address: owner)
    assert found.findings.sender is finding
    assert found.verdict is Verdict.VALID  # a right signature of somebody else stays right: the caller decides


@pytest.mark.parametrize(
    ("word", "chain", "revocation"),
    [
        ("REVOKED", Finding.GOOD, Finding.BAD),
        ("REVOCATION_UNKNOWN", Finding.GOOD, Finding.UNKNOWN),
        ("UNTRUSTED", Finding.BAD, Finding.UNKNOWN),
    ],
)
def test_path_and_revocation_are_told_apart(word: str, chain: Finding, revocation: Finding) -> None:
    def check(certificate: x509.Certificate, others: Sequence[x509.Certificate], at: datetime) -> make.Path:
        return make.Path(False, word)

    (found,) = smime.verify_message(SIGNED, at=AT, path=check)
    assert (found.findings.path, found.findings.revocation) == (chain, revocation)
    assert found.verdict is Verdict.UNTRUSTED and word in found.reasons


def test_findings_of_what_is_wrong() -> None:
    assert judged(sign_cms(CONTENT, HOLDER.signer, at=AT), b"other").findings.digest is Finding.BAD
    cms = write_signed(certificates=[OWN], attributes=attributes_of(), signature=bytes(256))
    assert (judged(cms).findings.signature, judged(cms).findings.digest) == (Finding.BAD, Finding.GOOD)
    late = make.issue(make.rsa_key(), ends=AT - timedelta(days=1))
    assert judged(sign_cms(CONTENT, late.signer, at=AT)).findings.time is Finding.BAD
    server = make.issue(make.rsa_key(), usage=make.key_usage(key_encipherment=True))
    assert judged(sign_cms(CONTENT, server.signer, at=AT)).findings.usage is Finding.BAD


def test_a_certificate_found_elsewhere() -> None:
    info = signed_codec.signer_info(OWN, Mechanism.RSA_PKCS1_SHA256, attributes_of(), sign_bytes(attributes_of()))
    bare = b"".join(signed_codec.write_signed(certificates=[], digests=["sha256"], signers=[info]))
    assert judged(bare).reasons == (Reason.NO_CERTIFICATE,)
    found = judged(bare, certificates=(make.other_holder().certificate, HOLDER.certificate))
    assert (found.verdict, found.notes) == (Verdict.VALID, (Note.ELSEWHERE,))
    raw = smime.sign_message(MESSAGE, HOLDER.signer, at=AT)
    again = smime.verify_message(raw, at=AT, path=path, certificates=[HOLDER.certificate])
    assert again[0].notes == ()


def test_reordered_attributes_are_the_same_set() -> None:
    """RFC 5652 §5.4: what is signed is the DER encoding, whatever order they travel in."""
    proper = attributes_of()
    shuffled = der.element(0x31, *reversed(elements(proper)))
    assert shuffled != proper
    cms = write_signed(certificates=[OWN], attributes=shuffled, signature=sign_bytes(proper))
    assert (judged(cms).verdict, judged(cms).notes) == (Verdict.VALID, (Note.ATTRIBUTES_ORDER,))
    as_sent = write_signed(certificates=[OWN], attributes=shuffled, signature=sign_bytes(shuffled))
    assert (judged(as_sent).verdict, judged(as_sent).notes) == (Verdict.VALID, (Note.ATTRIBUTES_ORDER,))


def test_duplicate_attributes_and_values() -> None:
    parts = elements(attributes_of())
    for changed in (
        der.set_of(*parts, parts[0]),
        der.set_of(*parts, der.sequence(der.oid("1.2.840.113549.1.9.4"), der.set_of(der.octets(bytes(32))))),
        der.set_of(*parts[1:], der.sequence(der.oid("1.2.840.113549.1.9.3"), der.element(0x31))),
    ):
        cms = write_signed(certificates=[OWN], attributes=changed, signature=sign_bytes(changed))
        assert judged(cms).verdict is Verdict.INVALID and Reason.ATTRIBUTES in judged(cms).reasons


def test_attributes_that_are_absent_or_lie() -> None:
    parts = {part[: part.index(b"\x31")]: part for part in elements(attributes_of())}
    for name, reason in (("1.2.840.113549.1.9.3", Reason.CONTENT_TYPE), ("1.2.840.113549.1.9.4", Reason.DIGEST)):
        kept = der.set_of(*(part for part in parts.values() if der.oid(name) not in part))
        cms = write_signed(certificates=[OWN], attributes=kept, signature=sign_bytes(kept))
        assert judged(cms).verdict is Verdict.INVALID and reason in judged(cms).reasons
    other = attributes_of().replace(der.oid("1.2.840.113549.1.7.1"), der.oid("1.2.840.113549.1.7.2"))
    cms = write_signed(certificates=[OWN], attributes=other, signature=sign_bytes(other))
    assert judged(cms).reasons == (Reason.CONTENT_TYPE,)


def test_without_signed_attributes_a_signature_is_weak() -> None:
    info = signed_codec.signer_info(OWN, Mechanism.RSA_PKCS1_SHA256, None, sign_bytes(CONTENT))
    cms = b"".join(signed_codec.write_signed(certificates=[OWN], digests=["sha256"], signers=[info]))
    assert (judged(cms).verdict, judged(cms).reasons) == (Verdict.WEAK, (Reason.NO_ATTRIBUTES,))
    assert judged(cms, b"other").verdict is Verdict.INVALID


def test_attributes_cannot_be_swapped_for_content() -> None:
    """The octets of signed attributes shown as content, without attributes: RFC 5652's known ambiguity, never VALID."""
    attributes = attributes_of()
    info = signed_codec.signer_info(OWN, Mechanism.RSA_PKCS1_SHA256, None, sign_bytes(attributes))
    cms = b"".join(signed_codec.write_signed(certificates=[OWN], digests=["sha256"], signers=[info]))
    assert judged(cms, attributes).verdict is Verdict.WEAK


def test_the_digest_cannot_be_smuggled() -> None:
    """RFC 6211: another digest in the container, the signer or the algorithm than the one signed with."""
    good = sign_cms(CONTENT, HOLDER.signer, at=AT)
    for name in ("sha1", "md5", "sha384"):
        inside = good.replace(digest_identifier("sha256"), digest_identifier(name))
        assert judged(inside).verdict is not Verdict.VALID
    pss = sign_cms(CONTENT, (HOLDER.signer, Mechanism.RSA_PSS_SHA256), at=AT)
    inner = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
    wrong = der.sequence(der.oid("2.16.840.1.101.3.4.2.2"), der.NULL)
    assert judged(pss.replace(inner, wrong, 1)).verdict is Verdict.INVALID
    parts = elements(attributes_of())
    protection = der.sequence(
        der.oid("1.2.840.113549.1.9.52"),
        der.set_of(
            der.sequence(digest_identifier("sha512"), der.element(0xA1, der.oid("1.2.840.113549.1.1.1"), der.NULL))
        ),
    )
    lying = der.set_of(*parts, protection)
    cms = write_signed(certificates=[OWN], attributes=lying, signature=sign_bytes(lying))
    assert judged(cms).reasons == (Reason.ALGORITHMS,)


@pytest.mark.parametrize(
    ("micalg", "notes"),
    [
        ("sha-256", ()),
        ("sha256", ()),
        ("SHA-256", ()),
        ("sha-1", (Note.MICALG,)),
        ("sha-512", (Note.MICALG,)),
        ('"sha-1,sha-256"', ()),
    ],
)
def test_a_wrong_micalg_is_noted_and_changes_nothing(micalg: str, notes: tuple[Note, ...]) -> None:
    raw = SIGNED.replace(b"micalg=sha-256", b"micalg=" + micalg.encode(), 1)
    (found,) = smime.verify_message(raw, at=AT, path=path)
    assert (found.verdict, found.notes) == (Verdict.VALID, notes)


def weak_message(holder: make.Holder, digest: str) -> bytes:
    own = holder.certificate.public_bytes(Encoding.DER)
    value = hashlib.new(digest, CONTENT, usedforsecurity=False).digest()
    attributes = signed_attributes(value, own, hashlib.sha256(own).digest(), AT)
    signature = sign_bytes(attributes, digest, holder.key)
    info = signer_info(own, digest, Mechanism.RSA_PKCS1_SHA256, attributes, signature)
    return b"".join(signed_codec.write_signed(certificates=[own], digests=[digest], signers=[info]))


@pytest.mark.parametrize(
    ("holder", "digest", "weakness"),
    [
        (HOLDER, "sha1", "sha1"),
        (HOLDER, "md5", "md5"),
        (HOLDER, "sha224", "sha224"),
        (make.issue(make.rsa_key(1024)), "sha256", "rsa"),
    ],
)
def test_weak_is_never_valid_unless_the_operator_says_so_with_dates(
    holder: make.Holder, digest: str, weakness: str
) -> None:
    cms = weak_message(holder, digest)
    assert judged(cms).verdict is Verdict.WEAK
    later, earlier = AT + timedelta(days=1), AT - timedelta(days=1)

    def under(*allowances: smime.WeakAllowance) -> smime.Verification:
        return judged(cms, policy=smime.ReadingPolicy(weak=allowances))

    allowed = under(smime.WeakAllowance(weakness, signed_before=later, until=later))
    assert (allowed.verdict, allowed.reasons, allowed.notes) == (Verdict.VALID, (), (Note.WEAK_ALLOWED,))
    for refused in (
        smime.WeakAllowance(weakness, signed_before=earlier, until=later),
        smime.WeakAllowance(weakness, signed_before=later, until=earlier),
        smime.WeakAllowance("curve", signed_before=later, until=later),
        smime.WeakAllowance(weakness, signed_before=later, until=later, least_bits=4096)
        if weakness == "rsa"
        else smime.WeakAllowance("rsa", signed_before=later, until=later),
    ):
        assert under(refused).verdict is Verdict.WEAK
    allowance = smime.WeakAllowance(weakness, signed_before=later, until=later)
    assert judged(cms, b"x", policy=smime.ReadingPolicy(weak=(allowance,))).verdict is Verdict.INVALID


def test_the_verdict_names_holder_and_algorithm() -> None:
    (found,) = smime.verify_message(SIGNED, at=AT, path=path)
    assert (found.algorithm, found.national_id) == ("rsa-sha256", make.PERSON_ID)
    assert found.addresses == ("medecin@test.mssante.fr",)
    assert mime.parse(SIGNED).get("from") == "Médecin <medecin@test.mssante.fr>"
