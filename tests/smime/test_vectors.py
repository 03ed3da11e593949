"""Fixed vectors of other origins (vectors/README.md), RFC 4134's, and an independent reader for what no program here reads."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from asn1crypto import cms as other
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

import smime
from smime import choose, enveloped, enveloped_codec, judge
from smime.enveloped_codec import AgreementRecord
from smime.verdict import Judging, Reason, Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT
from tests.smime.support import sign_cms

FOLDER = Path(__file__).parent / "vectors"
CONTENT = (FOLDER / "content.bin").read_bytes()
WHEN = datetime(2026, 11, 22, tzinfo=UTC)
SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples" / "rfc4134"


@cache
def holder(name: str) -> smime.SoftwareDecryptor:
    certificate = x509.load_pem_x509_certificate((FOLDER / f"{name}.pem").read_bytes())
    key = load_pem_private_key((FOLDER / f"{name}.key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return smime.SoftwareDecryptor(key, certificate)


def trusting(certificate: x509.Certificate, others: object, at: datetime) -> make.Path:
    names = ("rsa", "P-256", "P-384", "P-521")
    return make.Path(certificate in [holder(name).certificate for name in names], "not a vector's certificate")


def judged(file: str) -> tuple[smime.Verification, ...]:
    detached = file.endswith(".p7s")
    return judge.verify((FOLDER / file).read_bytes(), CONTENT if detached else None, Judging(WHEN, trusting))


@pytest.mark.parametrize(
    ("file", "algorithms"),
    [
        ("rsa-sha256.p7s", ["rsa-sha256"]),
        ("rsa-pss-sha512.p7s", ["pss-sha512"]),
        ("ecdsa-sha256.p7s", ["ecdsa-sha256"]),
        ("ecdsa-sha512.p7s", ["ecdsa-sha512"]),
        ("two-signers-indefinite.p7m", ["ecdsa-sha256", "rsa-sha256"]),
    ],
)
def test_signatures(file: str, algorithms: list[str]) -> None:
    found = judged(file)
    assert sorted(one.algorithm for one in found) == algorithms
    assert [(one.verdict, one.reasons) for one in found] == [(Verdict.VALID, ())] * len(algorithms)


def test_sha1_is_weak() -> None:
    (found,) = judged("rsa-sha1.p7s")
    assert (found.verdict, found.reasons) == (Verdict.WEAK, (Reason.WEAK_DIGEST,))


@pytest.mark.parametrize(
    ("file", "who", "cipher"),
    [
        ("cbc-indefinite.p7m", "rsa", "aes256-cbc"),
        ("gcm.p7m", "rsa", "aes256-gcm"),
        ("oaep-sha256.p7m", "rsa", "aes128-cbc"),
        ("ecdh-sha1kdf-p256.p7m", "P-256", "aes256-cbc"),
        ("ecdh-sha384kdf-p384-gcm.p7m", "P-384", "aes256-gcm"),
        ("ecdh-sha512kdf-p521-keyid.p7m", "P-521", "aes128-cbc"),
        ("mixed.p7m", "rsa", "aes256-cbc"),
        ("mixed.p7m", "P-256", "aes256-cbc"),
        ("3des.p7m", "rsa", "3des-cbc"),
    ],
)
def test_envelopes(file: str, who: str, cipher: str) -> None:
    cms = (FOLDER / file).read_bytes()
    opened = enveloped.decrypt(cms, [holder(who)], policy=smime.ReadingPolicy(triple_des=True))
    assert (opened.content, opened.cipher.value) == (CONTENT, cipher)


def x963(secret: bytes, info: bytes, size: int) -> bytes:
    """ANSI X9.63 with SHA-256, from its text (SEC 1 §3.6.1)."""
    blocks = (hashlib.sha256(secret + struct.pack(">I", n) + info).digest() for n in range(1, size // 32 + 2))
    return b"".join(blocks)[:size]


def test_x25519_with_an_independent_reader() -> None:
    """asn1crypto's own classes, RFC 5753's shared info spelled out, RFC 8418's identifiers by hand."""
    recipient = make.x25519_holder()
    key = recipient.key
    assert isinstance(key, x25519.X25519PrivateKey)
    plan = choose([recipient.certificate], cipher=smime.ContentCipher.AES256_GCM)
    info = other.ContentInfo.load(enveloped.encrypt(CONTENT, plan))
    body = info["content"]
    agreement = body["recipient_infos"][0].chosen
    originator = agreement["originator"].chosen
    assert originator["algorithm"]["algorithm"].dotted == "1.3.101.110"
    scheme = agreement["key_encryption_algorithm"]
    assert scheme["algorithm"].dotted == "1.3.132.1.11.1"
    wrap = scheme["parameters"]
    wrap = (wrap.parsed if isinstance(wrap, core.ParsableOctetString) else wrap).dump()
    shared = b"\x30" + bytes([len(wrap) + 8]) + wrap + b"\xa2\x06\x04\x04\x00\x00\x01\x00"
    public = x25519.X25519PublicKey.from_public_bytes(bytes(originator["public_key"]))
    wrapped = agreement["recipient_encrypted_keys"][0]["encrypted_key"].native
    content_key = aes_key_unwrap(x963(key.exchange(public), shared, 32), wrapped)
    encrypted = body["auth_encrypted_content_info"]
    parameters = encrypted["content_encryption_algorithm"]["parameters"].dump()
    nonce = core.Sequence.load(parameters)[0].native
    ciphertext = encrypted["encrypted_content"].contents + body["mac"].native
    assert AESGCM(content_key).decrypt(nonce, ciphertext, None) == CONTENT


def test_the_hkdf_form_of_rfc_8418_is_read() -> None:
    """We write X9.63; a peer may write HKDF (dhSinglePass-stdDH-hkdf-sha256-scheme)."""
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    from smime import agreement
    from smime.algorithms import DERIVATIONS, wrap_identifier
    from smime.enveloped_codec import agreement_info, write_enveloped

    recipient = make.x25519_holder()
    key = recipient.key
    assert isinstance(key, x25519.X25519PrivateKey)
    derivation = DERIVATIONS["1.2.840.113549.1.9.16.3.19"]
    once = x25519.X25519PrivateKey.generate()
    kek = agreement.derive(once.exchange(key.public_key()), derivation, wrap_identifier(16), 16, None)
    der = recipient.certificate.public_bytes(Encoding.DER)
    mine = once.public_key().public_bytes_raw()
    info = agreement_info(der, mine, derivation, wrap_identifier(16), aes_key_wrap(kek, b"k" * 16), x25519=True)
    cipher = smime.ContentCipher.AES128_GCM
    sealed = AESGCM(b"k" * 16).encrypt(bytes(12), CONTENT, None)
    before, _ = write_enveloped([info], cipher=cipher, iv=bytes(12), size=len(CONTENT))
    cms = b"".join([before, sealed[:-16], enveloped_codec.mac_element(sealed[-16:])])
    assert enveloped.decrypt(cms, [recipient.decryptor]).content == CONTENT
    record = enveloped_codec.read_enveloped(cms).recipients[0]
    assert isinstance(record, AgreementRecord) and record.derivation.hkdf


def test_ed25519_with_an_independent_reader() -> None:
    """RFC 8419: SHA-512 in the message digest, the signature over the DER of the attributes themselves."""
    signer = make.ed25519_holder()
    info = other.ContentInfo.load(sign_cms(CONTENT, signer.signer, at=AT))
    one = info["content"]["signer_infos"][0]
    assert one["signature_algorithm"]["algorithm"].dotted == "1.3.101.112"
    assert one["digest_algorithm"]["algorithm"].native == "sha512"
    attributes = {item["type"].native: item["values"][0].native for item in one["signed_attrs"]}
    assert attributes["message_digest"] == hashlib.sha512(CONTENT).digest()
    public = signer.certificate.public_key()
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(one["signature"].native, one["signed_attrs"].untag().dump())


def test_every_oaep_and_pss_parameter_is_written_out() -> None:
    """asn1crypto reads the parameters back as the hash in all places, not RFC 4055's SHA-1 defaults."""
    from smime.algorithms import SIGNATURE_IDENTIFIERS, Mechanism, oaep_identifier

    oaep = other.KeyEncryptionAlgorithm.load(oaep_identifier("sha256"))["parameters"].native
    assert oaep["hash_algorithm"]["algorithm"] == "sha256"
    assert oaep["mask_gen_algorithm"]["parameters"]["algorithm"] == "sha256"
    pss = other.SignedDigestAlgorithm.load(SIGNATURE_IDENTIFIERS[Mechanism.RSA_PSS_SHA384])["parameters"].native
    assert (pss["hash_algorithm"]["algorithm"], pss["salt_length"]) == ("sha384", 48)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the RFC 4134 samples are not beside the repository")
def test_rfc_4134_envelopes_are_refused_by_policy_not_by_accident() -> None:
    """5.1: triple DES and RSA of 1024 bits; its content is the one the RFC says, when an operator allows reading it."""
    key = other_key((SAMPLES / "BobPrivRSAEncrypt.pri").read_bytes())
    certificate = x509.load_der_x509_certificate((SAMPLES / "BobRSASignByCarl.cer").read_bytes())
    decryptor = smime.SoftwareDecryptor(key, certificate)
    cms = (SAMPLES / "5.1.bin").read_bytes()
    with pytest.raises(smime.UnsupportedCms):
        enveloped.decrypt(cms, [decryptor])
    opened = enveloped.decrypt(cms, [decryptor], policy=smime.ReadingPolicy(triple_des=True))
    assert opened.content == (SAMPLES / "ExContent.bin").read_bytes()


def other_key(data: bytes) -> rsa.RSAPrivateKey:
    """An RSA key of the samples, which are PKCS#8 with attributes that OpenSSL need not like."""
    from asn1crypto import keys

    numbers = keys.PrivateKeyInfo.load(data)["private_key"].parsed.native
    public = rsa.RSAPublicNumbers(numbers["public_exponent"], numbers["modulus"])
    private = rsa.RSAPrivateNumbers(
        p=numbers["prime1"],
        q=numbers["prime2"],
        d=numbers["private_exponent"],
        dmp1=numbers["exponent1"],
        dmq1=numbers["exponent2"],
        iqmp=numbers["coefficient"],
        public_numbers=public,
    )
    return private.private_key()
