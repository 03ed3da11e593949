"""Other people's CMS programs, each with its own private key store in a folder: OpenSSL, gpgsm and NSS cmsutil.

What a program says of itself decides: `Refused` when it ends with an error. All judge by the machine's clock.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

import smime
from smime.algorithms import Mechanism
from tests.smime import certificates as make
from tests.smime.certificates import Holder

PRINT = hashes.SHA1()  # noqa: S303 - how gpgsm names certificates, and what old PKCS#12 readers know


_SAID = re.compile(
    r"no default digest|invalid digest|operation not supported for this keytype|no matching recipient|SEC_ERROR_\w+"
    r"|Wrong key usage|DSA requires the hash length to be a multiple of 8 bits|Buffer too short|No secret key"
    r"|Public key signature verification has failed|Unsupported algorithm"
)


class Refused(Exception):
    """The other program ended with an error."""

    @property
    def reason(self) -> str:
        """What it said, as far as it says the same each time."""
        found = _SAID.search(str(self))
        return f"« {found[0]} »" if found else "refuse sans dire pourquoi / refuses without a word"


class Unable(Exception):
    """The other program has no way to be asked for this."""

    @property
    def reason(self) -> str:
        return str(self)


def run(*command: str | Path, data: bytes = b"") -> bytes:
    done = subprocess.run([str(one) for one in command], input=data, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise Refused(done.stderr.decode("utf-8", "replace")[-500:])
    return done.stdout


class Peer(Protocol):
    """One program. Signatures and envelopes are DER; signers and recipients are names of `people`."""

    name: str

    def verify(self, cms: bytes, content: bytes, *, detached: bool) -> None: ...

    def sign(self, who: str, mechanism: Mechanism, content: bytes, *, detached: bool) -> bytes: ...

    def decrypt(self, who: str, cms: bytes) -> bytes: ...

    def encrypt(self, who: Sequence[str], cipher: smime.ContentCipher, content: bytes, *, oaep: bool) -> bytes: ...


def people() -> dict[str, Holder]:
    """One holder of each kind of key, each with a name and an address of its own (NSS finds certificates by them)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

    both = make.key_usage(digital_signature=True, key_agreement=True)
    signs = make.key_usage(digital_signature=True)
    agrees = make.key_usage(key_agreement=True)
    kinds: dict[str, tuple[make.Key, object]] = {
        "rsa": (make.rsa_key(), make.MAIL_USAGE),
        "p256": (ec.generate_private_key(ec.SECP256R1()), both),
        "p384": (ec.generate_private_key(ec.SECP384R1()), both),
        "p521": (ec.generate_private_key(ec.SECP521R1()), both),
        "ed25519": (ed25519.Ed25519PrivateKey.generate(), signs),
        "x25519": (x25519.X25519PrivateKey.generate(), agrees),
    }
    return {
        name: make.issue(
            key, subject=make.organisation_name(common_name=name), emails=(f"{name}@test.mssante.fr",), usage=usage
        )
        for name, (key, usage) in kinds.items()
    }


class OpenSsl:
    """`openssl cms`."""

    name = "OpenSSL"

    def __init__(self, folder: Path, holders: dict[str, Holder]) -> None:
        self._folder = folder
        folder.mkdir()
        for name, holder in holders.items():
            (folder / f"{name}.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
            (folder / f"{name}.key").write_bytes(holder.key_pem())
        (folder / "ca.pem").write_bytes(make.authority().certificate.public_bytes(Encoding.PEM))

    def verify(self, cms: bytes, content: bytes, *, detached: bool) -> None:
        (self._folder / "content").write_bytes(content)
        more: list[str | Path] = ["-content", self._folder / "content"] if detached else []
        command: list[str | Path] = [
            "openssl",
            "cms",
            "-verify",
            "-binary",
            "-inform",
            "DER",
            "-CAfile",
            self._folder / "ca.pem",
        ]
        assert run(*command, *more, data=cms) == content

    def sign(self, who: str, mechanism: Mechanism, content: bytes, *, detached: bool) -> bytes:
        key: list[str | Path] = ["-signer", self._folder / f"{who}.pem", "-inkey", self._folder / f"{who}.key"]
        pss = ["-keyopt", "rsa_padding_mode:pss"] if mechanism.family == "pss" else []
        digest = [] if mechanism is Mechanism.ED25519 else ["-md", mechanism.digest]
        attached = [] if detached else ["-nodetach"]
        return run(
            "openssl", "cms", "-sign", "-binary", "-outform", "DER", *key, *pss, *digest, *attached, data=content
        )

    def decrypt(self, who: str, cms: bytes) -> bytes:
        key: list[str | Path] = ["-recip", self._folder / f"{who}.pem", "-inkey", self._folder / f"{who}.key"]
        return run("openssl", "cms", "-decrypt", "-binary", "-inform", "DER", *key, data=cms)

    def encrypt(self, who: Sequence[str], cipher: smime.ContentCipher, content: bytes, *, oaep: bool) -> bytes:
        options: list[str | Path] = []
        for name in who:
            options += ["-recip", self._folder / f"{name}.pem"]
            if oaep:
                options += ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"]
        is_aes = cipher is not smime.ContentCipher.TRIPLE_DES
        name = f"-aes-{cipher.key_length * 8}-{cipher.value[-3:]}" if is_aes else "-des3"
        return run("openssl", "cms", "-encrypt", "-binary", "-outform", "DER", name, *options, data=content)


_PKCS12 = (  # what the older programs read
    PrivateFormat.PKCS12.encryption_builder()
    .kdf_rounds(2048)
    .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
    .hmac_hash(PRINT)
    .build(b"x")
)


def write_pkcs12(path: Path, name: str, holder: Holder) -> Path:
    assert not isinstance(holder.key, X25519PrivateKey)
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(name.encode(), holder.key, holder.certificate, holder.chain[1:], _PKCS12)
    )
    return path


class Gpgsm:
    """gpgsm of GnuPG 2.2. Only its RSA keys are used: it crashes on PKCS#12 files with elliptic curve keys, whose
    certificates alone it is given."""

    name = "gpgsm"

    def __init__(self, folder: Path, holders: dict[str, Holder]) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700)
        (folder / "gpgsm.conf").write_text("disable-crl-checks\ndisable-dirmngr\n")
        (folder / "gpg-agent.conf").write_text("allow-loopback-pinentry\n")
        root = make.authority().certificate
        (folder / "trustlist.txt").write_text(f"{root.fingerprint(PRINT).hex().upper()} S relax\n")
        self._prints = {name: holder.certificate.fingerprint(PRINT).hex().upper() for name, holder in holders.items()}
        self._gpgsm("--import", data=root.public_bytes(Encoding.DER))
        for name, holder in holders.items():
            if name == "rsa":
                self._gpgsm("--import", write_pkcs12(folder / f"{name}.p12", name, holder), data=b"x\n")
            else:
                self._gpgsm("--import", data=holder.certificate.public_bytes(Encoding.DER))

    def _gpgsm(self, *arguments: str | Path, data: bytes = b"x\n") -> bytes:
        options: list[str | Path] = [
            "--homedir",
            self._folder,
            "--batch",
            "--yes",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
        ]
        secret = ["--passphrase-fd", "0"] if data == b"x\n" else []
        return run("gpgsm", *options, *secret, *arguments, data=data)

    def stop(self) -> None:
        """Ends the agent of this folder."""
        run("gpgconf", "--homedir", self._folder, "--kill", "all")

    def _file(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def verify(self, cms: bytes, content: bytes, *, detached: bool) -> None:
        signature = self._file("signature", cms)
        if detached:
            self._gpgsm("--verify", signature, self._file("content", content))
        else:
            self._gpgsm("--output", self._folder / "out", "--verify", signature)
            assert (self._folder / "out").read_bytes() == content

    def sign(self, who: str, mechanism: Mechanism, content: bytes, *, detached: bool) -> bytes:
        if who != "rsa":
            raise Unable(
                "son import de clés s'arrête sur les courbes elliptiques / its key import crashes on elliptic curves"
            )
        if mechanism.family == "pss":
            raise Unable("pas d'option pour PSS / no option for PSS")
        kind = ["--detach-sign"] if detached else []
        digest = ["--digest-algo", mechanism.digest.upper()]
        return self._gpgsm("-u", self._prints[who], *digest, "--sign", *kind, self._file("content", content))

    def decrypt(self, who: str, cms: bytes) -> bytes:
        if who != "rsa":
            raise Unable(
                "son import de clés s'arrête sur les courbes elliptiques / its key import crashes on elliptic curves"
            )
        return self._gpgsm("--decrypt", self._file("envelope", cms))

    def encrypt(self, who: Sequence[str], cipher: smime.ContentCipher, content: bytes, *, oaep: bool) -> bytes:
        if oaep or cipher.authenticated:
            raise Unable(
                "pas d'option pour OAEP / no option for OAEP" if oaep else "pas d'option pour GCM / no option for GCM"
            )
        recipients = [item for name in who for item in ("-r", self._prints[name])]
        name = {"aes128-cbc": "AES", "aes192-cbc": "AES192", "3des-cbc": "3DES"}.get(cipher.value, "AES256")
        return self._gpgsm(*recipients, "--cipher-algo", name, "--encrypt", self._file("content", content))


class Nss:
    """NSS `cmsutil`, the engine of Thunderbird."""

    name = "NSS cmsutil"

    def __init__(self, folder: Path, holders: dict[str, Holder]) -> None:
        self._folder = folder
        (folder / "db").mkdir(parents=True)
        self._db = f"sql:{folder / 'db'}"
        run("certutil", "-N", "-d", self._db, "--empty-password")
        ca = folder / "ca.der"
        ca.write_bytes(make.authority().certificate.public_bytes(Encoding.DER))
        run("certutil", "-A", "-d", self._db, "-n", "authority", "-t", "CT,CT,CT", "-i", ca)
        self._held: set[str] = set()
        for name, holder in holders.items():
            if name in ("ed25519", "x25519"):  # pk12util refuses such keys
                continue
            path = write_pkcs12(folder / f"{name}.p12", name, holder)
            run("pk12util", "-i", path, "-d", self._db, "-W", "x", "-K", "")
            self._held.add(name)

    def _file(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def verify(self, cms: bytes, content: bytes, *, detached: bool) -> None:
        out = self._folder / "out"
        more: list[str | Path] = ["-c", self._file("content", content)] if detached else []
        said = run("cmsutil", "-D", "-h", "1", "-d", self._db, "-i", self._file("signature", cms), *more, "-o", out)
        shown = out.read_bytes() + said
        if b"GoodSignature" not in shown:
            raise Refused(shown[-300:].decode("utf-8", "replace"))

    def sign(self, who: str, mechanism: Mechanism, content: bytes, *, detached: bool) -> bytes:
        if who not in self._held:
            raise Unable("son import de clés refuse Ed25519 et X25519 / its key import refuses Ed25519 and X25519")
        if mechanism.family == "pss":
            raise Unable("pas d'option pour PSS / no option for PSS")
        out = self._folder / "signed"
        out.unlink(missing_ok=True)
        attached = ["-T"] if detached else []
        run(
            *("cmsutil", "-S", "-d", self._db, "-N", who, "-H", mechanism.digest.upper(), "-G", *attached),
            *("-i", self._file("content", content), "-o", out),
        )
        return out.read_bytes()

    def decrypt(self, who: str, cms: bytes) -> bytes:
        if who not in self._held:
            raise Unable("son import de clés refuse Ed25519 et X25519 / its key import refuses Ed25519 and X25519")
        out = self._folder / "clear"
        out.unlink(missing_ok=True)
        run("cmsutil", "-D", "-d", self._db, "-i", self._file("envelope", cms), "-o", out)
        return out.read_bytes()

    def encrypt(self, who: Sequence[str], cipher: smime.ContentCipher, content: bytes, *, oaep: bool) -> bytes:
        if oaep or cipher is not smime.ContentCipher.AES256_CBC:
            raise Unable("choisit lui-même chiffre et transport / chooses cipher and transport itself")
        if not set(who) <= self._held:
            raise Unable("son import de clés refuse Ed25519 et X25519 / its key import refuses Ed25519 and X25519")
        out = self._folder / "envelope.out"
        out.unlink(missing_ok=True)
        recipients = ",".join(f"{name}@test.mssante.fr" for name in who)
        run("cmsutil", "-E", "-d", self._db, "-r", recipients, "-i", self._file("content", content), "-o", out)
        return out.read_bytes()


class GnuTls:
    """GnuTLS `certtool`: signatures only, Ed25519 among them."""

    name = "GnuTLS certtool"

    def __init__(self, folder: Path, holders: dict[str, Holder]) -> None:
        self._folder = folder
        folder.mkdir()
        for name, holder in holders.items():
            (folder / f"{name}.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
            (folder / f"{name}.key").write_bytes(holder.key_pem())
        (folder / "ca.pem").write_bytes(make.authority().certificate.public_bytes(Encoding.PEM))

    def _file(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def verify(self, cms: bytes, content: bytes, *, detached: bool) -> None:
        command: list[str | Path] = [
            "certtool",
            "--p7-verify",
            "--inder",
            "--load-ca-certificate",
            self._folder / "ca.pem",
        ]
        more: list[str | Path] = ["--load-data", self._file("content", content)] if detached else []
        run(*command, *more, "--infile", self._file("signature", cms))

    def sign(self, who: str, mechanism: Mechanism, content: bytes, *, detached: bool) -> bytes:
        key: list[str | Path] = [
            "--load-certificate",
            self._folder / f"{who}.pem",
            "--load-privkey",
            self._folder / f"{who}.key",
        ]
        pss = ["--sign-params=rsa-pss"] if mechanism.family == "pss" else []
        kind = "--p7-detached-sign" if detached else "--p7-sign"
        out = self._folder / "signed"
        out.unlink(missing_ok=True)
        run(
            *("certtool", kind, "--p7-time", "--outder", f"--hash={mechanism.digest.upper()}", *pss, *key),
            *("--infile", self._file("content", content), "--outfile", out),
        )
        return out.read_bytes()

    def decrypt(self, who: str, cms: bytes) -> bytes:
        raise Unable("signatures seulement / signatures only")

    def encrypt(self, who: Sequence[str], cipher: smime.ContentCipher, content: bytes, *, oaep: bool) -> bytes:
        raise Unable("signatures seulement / signatures only")


PROGRAMS = {"openssl": OpenSsl, "gpgsm": Gpgsm, "cmsutil": Nss, "certtool": GnuTls}


def missing() -> list[str]:
    """The programs that are not installed here."""
    wanted = [*PROGRAMS, "certutil", "pk12util"]
    return [name for name in wanted if shutil.which(name, path=os.environ.get("PATH")) is None]
