"""Helpers of the directory tests: free ports, a small certificate authority, ldap-utils as witnesses."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PASSWORD = "mot de passe d'exercice"
NOW = datetime.now(UTC).replace(microsecond=0)
EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def free_port() -> int:
    """A loopback port above 20000 that nobody holds now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port > 20000:
            return port


def witness(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run an ldap-utils command without this machine's LDAP settings."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PATH": os.environ["PATH"], "LDAPNOINIT": "1"},
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certificate(
    *,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=365),
    usages: frozenset[str] | None = frozenset({"key_encipherment"}),
    purposes: tuple[x509.ObjectIdentifier, ...] = (),
    name: str = "BAL d'essai",
) -> x509.Certificate:
    """A self-signed certificate; `usages` None leaves the key usage extension out."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if usages is not None:
        builder = builder.add_extension(_key_usage(usages), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(key, hashes.SHA256())


def _key_usage(usages: frozenset[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in usages,
        content_commitment=False,
        key_encipherment="key_encipherment" in usages,
        data_encipherment=False,
        key_agreement="key_agreement" in usages,
        key_cert_sign="key_cert_sign" in usages,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Authority:
    """A root that issues one kind of certificate: a server on 127.0.0.1."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    root: x509.Certificate

    @property
    def ca_file(self) -> Path:
        return self.folder / "racine.pem"

    @classmethod
    def create(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        root = (
            x509.CertificateBuilder()
            .subject_name(_name("TEST RACINE"))
            .issuer_name(_name("TEST RACINE"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(frozenset({"key_cert_sign"})), critical=True)
            .sign(key, hashes.SHA256())
        )
        (folder / "racine.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, root)

    def server(self, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """(chain file, key file) of a server certificate naming the IP `address`."""
        key = rsa.generate_private_key(65537, 2048)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(_name("annuaire"))
            .issuer_name(self.root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(_key_usage(frozenset({"digital_signature"})), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        chain, secret = self.folder / f"{address}.pem", self.folder / f"{address}.key"
        chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        secret.chmod(0o600)
        return chain, secret
