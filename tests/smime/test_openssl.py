"""OpenSSL as an independent witness: it reads what we write, we read what it writes."""

from __future__ import annotations

import email
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import mime
import smime
from smime.verdict import Reason, Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, Holder, path
from tests.smime.test_sign_verify import MESSAGE, SIGNED, sign

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
ENTITY = b"Content-Type: text/plain; charset=us-ascii\r\n\r\nBonjour,\r\nun compte rendu.\r\n"
ATTIME = str(int(AT.timestamp()))


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The holders' files: NAME.pem (leaf), NAME.key, ca.pem."""
    for label, holder in (("rsa", make.rsa_holder()), ("other", make.other_holder()), ("ec", make.ec_holder())):
        (tmp_path / f"{label}.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
        (tmp_path / f"{label}.key").write_bytes(holder.key_pem())
    (tmp_path / "ca.pem").write_bytes(make.authority().certificate.public_bytes(Encoding.PEM))
    return tmp_path


def judge(raw: bytes) -> smime.Verification:
    (verification,) = smime.verify_message(raw, at=AT, path=path)
    return verification


@pytest.mark.parametrize("holder", [make.rsa_holder(), make.ec_holder("P-256"), make.ec_holder("P-384")])
def test_openssl_verifies_what_we_sign(desk: Path, holder: Holder) -> None:
    raw = sign(holder)
    verify = ["cms", "-verify", "-CAfile", str(desk / "ca.pem"), "-attime", ATTIME]
    entity, signature = mime.parse(raw).children
    assert openssl(*verify, data=raw).replace(b"\r\n", b"\n") == entity.raw(raw).replace(b"\r\n", b"\n")
    # OpenSSL's reader changes line ends before it verifies; given the two pieces, it judges the exact octets.
    (desk / "content").write_bytes(entity.raw(raw))
    exact = [*verify, "-binary", "-inform", "DER", "-content", str(desk / "content")]
    assert openssl(*exact, data=signature.decoded(raw)) == entity.raw(raw)
    changed = raw.replace(b"aujourd'hui", b"aujourd hui")
    assert changed != raw
    with pytest.raises(AssertionError, match=r"verification failure|digest failure"):
        openssl(*verify, data=changed)


def test_openssl_sees_our_signed_attributes(desk: Path) -> None:
    cms = mime.parse(SIGNED).children[1].decoded(SIGNED)
    printed = openssl("cms", "-cmsout", "-print", "-noout", "-inform", "DER", data=cms).decode()
    for name in (
        "contentType",
        "messageDigest",
        "signingTime",
        "id-smime-aa-signingCertificateV2",
        "S/MIME Capabilities",
    ):
        assert name in printed
    assert "aes-256-cbc" in printed and "Nov 20 10:00:00 2026" in printed


@pytest.mark.parametrize("who", ["rsa", "ec"])
@pytest.mark.parametrize(
    "options", [[], ["-nodetach"], ["-keyid"], ["-nodetach", "-stream"], ["-cades"], ["-nosmimecap"], ["-md", "sha512"]]
)
def test_we_verify_what_openssl_signs(desk: Path, who: str, options: list[str]) -> None:
    signer = ["-signer", str(desk / f"{who}.pem"), "-inkey", str(desk / f"{who}.key")]
    raw = openssl("cms", "-sign", "-binary", "-crlfeol", *signer, *options, data=ENTITY)
    verification = judge_now(raw)
    assert (verification.verdict, verification.reasons) == (Verdict.VALID, ())
    clear = smime.clear_entity(raw)
    assert mime.parse(clear).body(clear) == b"Bonjour,\r\nun compte rendu.\r\n"
    if "-nodetach" not in options:
        changed = raw.replace(b"Bonjour", b"Bonsoir")
        assert judge_now(changed).verdict is Verdict.INVALID


def judge_now(raw: bytes) -> smime.Verification:
    """OpenSSL signs with the machine's clock: the signing time itself is the moment to judge for."""
    first = judge(raw)
    moment = first.signed_at or AT
    (verification,) = smime.verify_message(raw, at=moment, path=path)
    return verification


def test_pss_signatures(desk: Path) -> None:
    signer = ["-signer", str(desk / "rsa.pem"), "-inkey", str(desk / "rsa.key")]
    raw = openssl("cms", "-sign", "-binary", "-crlfeol", *signer, "-keyopt", "rsa_padding_mode:pss", data=ENTITY)
    assert judge_now(raw).verdict is Verdict.VALID


def test_sha1_and_short_keys_are_weak(desk: Path) -> None:
    small = make.issue(make.rsa_key(1024))
    (desk / "small.pem").write_bytes(small.certificate.public_bytes(Encoding.PEM))
    (desk / "small.key").write_bytes(small.key_pem())
    for who, options, reason in (
        ("rsa", ["-md", "sha1"], Reason.WEAK_DIGEST),
        ("small", [], Reason.WEAK_KEY),
        ("rsa", ["-noattr"], Reason.NO_ATTRIBUTES),
    ):
        signer = ["-signer", str(desk / f"{who}.pem"), "-inkey", str(desk / f"{who}.key")]
        raw = openssl("cms", "-sign", "-binary", "-crlfeol", *signer, *options, data=ENTITY)
        verification = judge_now(raw)
        assert (verification.verdict, verification.reasons) == (Verdict.WEAK, (reason,))


def test_two_signers(desk: Path) -> None:
    signers: list[str] = []
    for who in ("rsa", "ec"):
        signers += ["-signer", str(desk / f"{who}.pem"), "-inkey", str(desk / f"{who}.key")]
    raw = openssl("cms", "-sign", "-binary", "-crlfeol", *signers, data=ENTITY)
    now = smime.verify_message(raw, at=AT, path=path)[0].signed_at or AT
    assert [item.verdict for item in smime.verify_message(raw, at=now, path=path)] == [Verdict.VALID] * 2


def test_a_signature_without_its_certificate(desk: Path) -> None:
    signer = ["-signer", str(desk / "rsa.pem"), "-inkey", str(desk / "rsa.key")]
    raw = openssl("cms", "-sign", "-binary", "-crlfeol", "-nocerts", *signer, data=ENTITY)
    assert judge(raw).reasons == (Reason.NO_CERTIFICATE,)


@pytest.mark.parametrize("transport", list(smime.Transport))
def test_openssl_opens_what_we_encrypt(desk: Path, transport: smime.Transport) -> None:
    raw = smime.encrypt_message(
        SIGNED, [make.rsa_holder().certificate, make.other_holder().certificate], transport=transport
    )
    content = openssl("cms", "-decrypt", "-recip", str(desk / "other.pem"), "-inkey", str(desk / "other.key"), data=raw)
    root, inner = mime.parse(SIGNED), mime.parse(content)
    assert [part.raw(content) for part in inner.children] == [part.raw(SIGNED) for part in root.children]


@pytest.mark.parametrize("cipher", ["-aes-128-cbc", "-aes-192-cbc", "-aes-256-cbc"])
@pytest.mark.parametrize("options", [[], ["-stream"], ["-keyid"]])
def test_we_open_what_openssl_encrypts(desk: Path, cipher: str, options: list[str]) -> None:
    content = ENTITY + b"0123456789\r\n" * 9000
    raw = openssl("cms", "-encrypt", "-binary", cipher, *options, str(desk / "rsa.pem"), data=content)
    assert opened(raw).content.endswith(content)


@pytest.mark.parametrize(
    "options", [["rsa_oaep_md:sha1"], ["rsa_oaep_md:sha256"], ["rsa_oaep_md:sha256", "rsa_mgf1_md:sha1"]]
)
def test_we_open_oaep(desk: Path, options: list[str]) -> None:
    arguments = [item for option in ["rsa_padding_mode:oaep", *options] for item in ("-keyopt", option)]
    command = ["cms", "-encrypt", "-binary", "-aes-256-cbc", "-recip", str(desk / "rsa.pem"), *arguments]
    assert opened(openssl(*command, data=ENTITY)).content.endswith(ENTITY)


def opened(raw: bytes) -> smime.Opened:
    holder = make.rsa_holder()
    result = smime.open_message(raw, [holder.decryptor], at=AT, path=path)
    assert (result.encrypted, result.opened, result.problems) == (True, True, ())
    return result


def test_triple_des_is_read_only_when_the_policy_says_so(desk: Path) -> None:
    raw = openssl("cms", "-encrypt", "-binary", "-des3", str(desk / "rsa.pem"), data=ENTITY)
    holder = make.rsa_holder()
    keys = [holder.decryptor]
    shut = smime.open_message(raw, keys, at=AT, path=path)
    assert (shut.opened, shut.problems, shut.content) == (False, ("unsupported-cms",), raw)
    read = smime.open_message(raw, keys, at=AT, path=path, policy=smime.ReadingPolicy(triple_des=True))
    assert read.opened and read.ciphers == (smime.ContentCipher.TRIPLE_DES,) and read.content.endswith(ENTITY)


def test_a_kind_we_do_not_read_is_reported(desk: Path) -> None:
    raw = openssl("cms", "-encrypt", "-binary", "-camellia128", str(desk / "rsa.pem"), data=ENTITY)
    holder = make.rsa_holder()
    result = smime.open_message(raw, [holder.decryptor], at=AT, path=path)
    assert (result.opened, result.problems, result.content) == (False, ("unsupported-cms",), raw)


@pytest.mark.slow
def test_ten_megabytes_streamed(desk: Path) -> None:
    content = ENTITY + b"0123456789abcdef" * (10 << 16)
    command = ["cms", "-encrypt", "-binary", "-stream", "-outform", "DER", "-aes-256-cbc", str(desk / "rsa.pem")]
    raw = mime.leaf("application/pkcs7-mime", openssl(*command, data=content))
    assert opened(raw).content.endswith(content)


def test_another_parser_finds_the_two_parts_we_signed() -> None:
    parts = email.message_from_bytes(SIGNED).get_payload()
    assert isinstance(parts, list) and len(parts) == 2
    assert MESSAGE.split(b"\r\n\r\n", 1)[1] == parts[0].get_payload(decode=True)  # type: ignore[union-attr]
