"""`caducee smime` as people run it: files, pipes, JSON, exit codes; OpenSSL at the other end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from typer.testing import CliRunner

import mime
import smime
from caducee.commands import smime as command
from caducee.errors import UsageError
from tests.smime import certificates as make
from tests.smime.certificates import AT
from tests.smime.test_sign_verify import MESSAGE

WHEN = ["--at", AT.isoformat()]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    for name, holder in (("me", make.rsa_holder()), ("you", make.ec_holder()), ("other", make.other_holder())):
        (tmp_path / f"{name}.pem").write_bytes(holder.chain_pem())
        (tmp_path / f"{name}.key").write_bytes(holder.key_pem())
    (tmp_path / "ca.pem").write_bytes(make.authority().certificate.public_bytes(Encoding.PEM))
    (tmp_path / "m.eml").write_bytes(MESSAGE)
    return tmp_path


def caducee(desk: Path, *arguments: str, data: bytes = b"", code: int = 0) -> bytes:
    """What the command writes; for code 2 the line that `caducee.cli` shows."""
    with contextlib.chdir(desk):
        result = CliRunner().invoke(command.app, list(arguments), input=data)
    if isinstance(result.exception, UsageError):
        assert code == 2, result.exception
        return str(result.exception).encode()
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout_bytes


@pytest.mark.slow
def test_the_program_itself_in_a_pipe(desk: Path) -> None:
    """The only test here that pays for starting the whole program."""
    root = Path(smime.__file__).resolve().parents[1]
    start = [sys.executable, "-c", "from caducee.cli import main; main()", "smime"]
    options = {"cwd": desk, "timeout": 120, "env": {"PYTHONPATH": str(root)}}
    signed = subprocess.run(
        [*start, "sign", "-", *ME, *WHEN], input=MESSAGE, capture_output=True, check=True, **options
    )  # type: ignore[call-overload]
    assert smime.verify_message(signed.stdout, at=AT, path=make.path)[0].verdict is smime.Verdict.VALID
    wrong = subprocess.run([*start, "verify", "missing.eml"], capture_output=True, check=False, **options)  # type: ignore[call-overload]
    assert wrong.returncode == 2 and len(wrong.stderr.decode().strip().splitlines()) == 1


ME = ["--cert", "me.pem", "--key", "me.key"]
YOU = ["--cert", "you.pem", "--key", "you.key"]
TRUST = ["--ca", "ca.pem", "--no-revocation"]


def test_a_whole_conversation_through_pipes(desk: Path) -> None:
    signed = caducee(desk, "sign", "m.eml", *ME, *WHEN, "--protect-headers")
    sealed = caducee(desk, "encrypt", "-", "--to", "you.pem", "--to", "other.pem", data=signed)
    layers = json.loads(caducee(desk, "inspect", "-", "--json", data=sealed))
    assert layers[0]["kind"] == "enveloped" and len(layers[0]["recipients"]) == 2
    transports = {one["transport"] for one in layers[0]["recipients"]}
    assert transports == {"ecdh x9.63-sha256 aes256-wrap", "rsa pkcs1-v1.5"}
    clear = caducee(desk, "decrypt", "-", *YOU, data=sealed)
    told = json.loads(caducee(desk, "verify", "-", *TRUST, *WHEN, "--json", data=clear))
    (signer,) = told["signers"]
    assert (signer["verdict"], signer["from"], signer["revocation"]) == ("valid", "good", "unknown")
    assert told["headers"]["mode"] == "clear" and told["headers"]["mismatched"] == []
    assert [part["covered_by_valid"] for part in told["parts"] if part["type"] == "text/plain"] == [True]
    changed = clear.replace(b"merci", b"MERCI")
    told = json.loads(caducee(desk, "verify", "-", *TRUST, *WHEN, "--json", data=changed, code=1))
    assert told["signers"][0]["digest"] == "bad"
    table = caducee(desk, "verify", "-", *TRUST, *WHEN, data=clear).decode()
    assert "valid" in table and "medecin@test.mssante.fr" in table


def test_options_of_signing_and_encrypting(desk: Path) -> None:
    opaque = caducee(desk, "sign", "m.eml", *ME, *WHEN, "--opaque", "--algorithm", "rsa-pss-sha512")
    layers = json.loads(caducee(desk, "inspect", "-", "--json", data=opaque))
    assert (layers[0]["kind"], layers[0]["signers"][0]["signature"]) == ("opaque", "pss")
    caducee(desk, "encrypt", "m.eml", "--to", "me.pem", "--cipher", "aes256-gcm", "--oaep", "--hide-subject", "-o", "x")
    sealed = (desk / "x").read_bytes()
    assert mime.parse(sealed).get("subject") == "[...]"
    layers = json.loads(caducee(desk, "inspect", "x", "--json"))
    assert (layers[0]["cipher"], layers[0]["recipients"][0]["transport"]) == ("aes256-gcm", "rsa oaep sha256/sha256")
    opened = caducee(desk, "decrypt", "x", *ME)
    text = b"Subject: sujet\r\n\r\n" + MESSAGE.split(b"\r\n\r\n", 1)[1]
    assert mime.parse(opened).decoded(opened) == text, "the hidden Subject stands at the head of the text"
    assert b"aes256-gcm" in caducee(desk, "inspect", "x")
    caducee(desk, "decrypt", "x", "--cert", "other.pem", "--key", "other.key", code=1)


def test_bare_cms_files_and_protected_keys(desk: Path) -> None:
    holder = make.rsa_holder()
    (desk / "locked.key").write_bytes(
        holder.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    (desk / "word").write_text("secret\n")
    encrypt = ["openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-outform", "PEM", "me.pem"]
    done = subprocess.run(
        encrypt, cwd=desk, input=b"Content-Type: text/plain\r\n\r\nhi\r\n", capture_output=True, check=True
    )
    (desk / "e.pem").write_bytes(done.stdout)
    key = ["--cert", "me.pem", "--key", "locked.key"]
    assert caducee(desk, "decrypt", "e.pem", *key, "--password-file", "word").endswith(b"hi\r\n")
    assert "mot de passe" in caducee(desk, "decrypt", "e.pem", *key, "--password-file", "me.pem", code=2).decode()
    assert "password-file" in caducee(desk, "decrypt", "e.pem", *key, code=2).decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "missing.eml"], "missing.eml"),
        (["sign", "m.eml", "--cert", "m.eml", "--key", "me.key"], "certificat"),
        (["sign", "m.eml", "--cert", "me.pem", "--key", "you.key"], "clé inutilisable"),
        (["sign", "m.eml", "--cert", "me.pem"], "--pkcs11"),
        (["sign", "m.eml", *ME, "--algorithm", "rot13"], "rsa-pss-sha256"),
        (["sign", "m.eml", *ME, "--at", "yesterday"], "date"),
        (["encrypt", "m.eml", "--to", "ca.pem"], "chiffrement impossible"),
        (["encrypt", "m.eml", "--to", "me.pem", "--cipher", "des"], "chiffrement inconnu"),
        (["verify", "empty"], "vide"),
    ],
)
def test_wrong_use_is_one_line(desk: Path, arguments: list[str], said: str) -> None:
    (desk / "empty").write_bytes(b"")
    message = caducee(desk, *arguments, code=2).decode()
    assert said in message and len(message.strip().splitlines()) == 1


def test_an_unsigned_message_is_not_valid(desk: Path) -> None:
    told = json.loads(caducee(desk, "verify", "m.eml", "--json", code=1))
    assert told["signers"] == [] and told["parts"][0]["covered_by_valid"] is False
    caducee(desk, "decrypt", "m.eml", *ME, code=1)
