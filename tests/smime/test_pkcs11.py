"""Keys in a SoftHSM2 token of this test's own: signing, opening, several threads, a token that goes away."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

import smime
from smime.algorithms import Mechanism
from smime.keys import KeyTransport, transport_padding
from tests.smime import certificates as make
from tests.smime.certificates import AT, path
from tests.smime.test_sign_verify import MESSAGE

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = pytest.mark.skipif(
    not LIBRARY.exists() or shutil.which("softhsm2-util") is None, reason="SoftHSM2 is not installed"
)
PIN = "1234"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token folder of our own; the library reads SOFTHSM2_CONF once, when it is first loaded."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    for label in ("mss", "other"):
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    yield folder
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture(scope="module")
def holders(folder: Path) -> dict[str, make.PublicHolder]:
    """Keys generated inside the token, each with a certificate of the test authority."""
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
    from pkcs11.util.rsa import encode_rsa_public_key

    found: dict[str, make.PublicHolder] = {}
    token = pkcs11.lib(str(LIBRARY)).get_token(token_label="mss")
    with token.open(user_pin=PIN, rw=True) as session:
        public, _ = session.generate_keypair(pkcs11.KeyType.RSA, 2048, label="rsa", id=b"\x01", store=True)
        spki = rsa_spki(encode_rsa_public_key(public))
        found["rsa"] = make.issue_public(load_der_public_key(spki), usage=make.MAIL_USAGE)
        for number, curve in enumerate(("secp256r1", "secp384r1", "secp521r1"), 2):
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
            )
            capabilities = pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.DERIVE
            public, _ = parameters.generate_keypair(
                label=curve, id=bytes((number,)), store=True, capabilities=capabilities
            )
            usage = make.key_usage(digital_signature=True, key_agreement=True)
            found[curve] = make.issue_public(load_der_public_key(encode_ec_public_key(public)), usage=usage)
    return found


def rsa_spki(pkcs1: bytes) -> bytes:
    from smime import der

    return der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL), der.element(0x03, b"\0" + pkcs1))


@pytest.fixture
def token(folder: Path, holders: dict[str, make.PublicHolder]) -> Iterator[object]:
    from smime.pkcs11 import Token

    token = Token.open(LIBRARY, label="mss", pin=PIN)
    yield token
    token.close()


def signer(token: object, holders: dict[str, make.PublicHolder], label: str) -> smime.Signer:
    from smime.pkcs11 import Token

    assert isinstance(token, Token)
    return token.signer(holders[label].chain, label=label)


def decryptor(token: object, holders: dict[str, make.PublicHolder], label: str) -> smime.Decryptor:
    from smime.pkcs11 import Token

    assert isinstance(token, Token)
    return token.decryptor(holders[label].certificate, label=label)


RSA = [mechanism for mechanism in Mechanism if mechanism.family in ("rsa", "pss")]


@pytest.mark.parametrize(
    ("label", "mechanism"),
    [("rsa", one) for one in RSA]
    + [
        ("secp256r1", Mechanism.ECDSA_SHA256),
        ("secp384r1", Mechanism.ECDSA_SHA384),
        ("secp521r1", Mechanism.ECDSA_SHA512),
    ],
)
def test_signing_in_the_token(
    token: object, holders: dict[str, make.PublicHolder], label: str, mechanism: Mechanism
) -> None:
    raw = smime.sign_message(MESSAGE, (signer(token, holders, label), mechanism), at=AT)
    (verification,) = smime.verify_message(raw, at=AT, path=path)
    assert (verification.verdict, verification.reasons) == (smime.Verdict.VALID, ())
    assert verification.signer_certificate == holders[label].certificate


@pytest.mark.parametrize("label", ["rsa", "secp256r1", "secp384r1", "secp521r1"])
@pytest.mark.parametrize("cipher", [smime.ContentCipher.AES256_CBC, smime.ContentCipher.AES256_GCM])
def test_opening_with_the_token(
    token: object, holders: dict[str, make.PublicHolder], label: str, cipher: smime.ContentCipher
) -> None:
    raw = smime.encrypt_message(MESSAGE, [holders[label].certificate], cipher=cipher)
    opened = smime.open_message(raw, [decryptor(token, holders, label)], at=AT, path=path)
    assert (opened.opened, opened.problems, opened.ciphers) == (True, (), (cipher,))
    assert opened.content.endswith(MESSAGE.split(b"\r\n\r\n", 1)[1])


def test_oaep_as_far_as_the_token_goes(token: object, holders: dict[str, make.PublicHolder]) -> None:
    """SoftHSM 2.6 knows OAEP with SHA-1 only: with SHA-256 the message stays shut, in the one usual way."""
    key = decryptor(token, holders, "rsa")
    public = holders["rsa"].certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    transport = KeyTransport(("sha1", "sha1"))
    assert key.unwrap(public.encrypt(b"k" * 32, transport_padding(transport)), transport, 32) == b"k" * 32
    raw = smime.encrypt_message(MESSAGE, [holders["rsa"].certificate], transport=smime.Transport.OAEP_SHA256)
    opened = smime.open_message(raw, [key], at=AT, path=path)
    assert opened.opened or (opened.problems, opened.audit) == (("decryption-failed",), ("key-unwrap",))


def test_wrong_padding_gives_a_random_key(token: object, holders: dict[str, make.PublicHolder]) -> None:
    key = decryptor(token, holders, "rsa")
    answers = {key.unwrap(bad, KeyTransport(), 32) for bad in (bytes(256), b"short", os.urandom(256), b"\0" * 256)}
    assert len(answers) == 4 and all(len(answer) == 32 for answer in answers)


def test_a_point_off_the_curve_never_reaches_the_token(token: object, holders: dict[str, make.PublicHolder]) -> None:
    with pytest.raises(smime.UnwrapFailed):
        decryptor(token, holders, "secp256r1").agree(b"\x04" + bytes(63) + b"\x01")


def test_many_threads_share_one_token(token: object, holders: dict[str, make.PublicHolder]) -> None:
    """Without the lock this crashes the interpreter (SoftHSM is not initialised for threads)."""
    rsa_signer, ec_signer = signer(token, holders, "rsa"), signer(token, holders, "secp256r1")
    ready = threading.Barrier(4)

    def work(number: int) -> list[str]:
        ready.wait()
        verdicts = []
        for _ in range(25):
            raw = smime.sign_message(MESSAGE, rsa_signer if number % 2 else ec_signer, at=AT)
            verdicts += [one.verdict.value for one in smime.verify_message(raw, at=AT, path=path)]
        return verdicts

    with ThreadPoolExecutor(4) as pool:
        assert {verdict for found in pool.map(work, range(4)) for verdict in found} == {"valid"}


def test_a_key_of_another_certificate_signs_nothing(token: object, holders: dict[str, make.PublicHolder]) -> None:
    from smime.pkcs11 import Token

    assert isinstance(token, Token)
    wrong = token.signer(make.rsa_holder().chain, label="rsa")
    with pytest.raises(smime.SigningFailed):
        smime.sign_message(MESSAGE, wrong, at=AT)


def test_what_is_not_there_is_unavailable(token: object, holders: dict[str, make.PublicHolder]) -> None:
    from smime.pkcs11 import Token

    assert isinstance(token, Token)
    with pytest.raises(smime.KeyUnavailable):
        token.signer(holders["rsa"].chain, label="nobody")
    with pytest.raises(smime.KeyUnavailable):
        Token.open(LIBRARY, label="no such token", pin=PIN)
    with pytest.raises(smime.KeyUnavailable):
        Token.open("/nonexistent/library.so", label="mss", pin=PIN)
    gone = token.signer(holders["rsa"].chain, key_id=b"\x01")
    token.close()
    with pytest.raises(smime.KeyUnavailable):
        smime.sign_message(MESSAGE, gone, at=AT)


def test_a_refused_pin_is_tried_once(folder: Path) -> None:
    from smime.pkcs11 import Token

    with pytest.raises(smime.KeyUnavailable, match="PIN"):
        Token.open(LIBRARY, label="other", pin="0000")
    assert PIN not in repr(Token(str(LIBRARY), "mss", PIN))


def test_a_session_that_was_lost_is_made_again(token: object, holders: dict[str, make.PublicHolder]) -> None:
    from smime.pkcs11 import Token

    assert isinstance(token, Token)
    one = token.signer(holders["rsa"].chain, label="rsa")
    token._drop()
    assert smime.sign_message(MESSAGE, one, at=AT)
