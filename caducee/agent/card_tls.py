"""TLS with the card's authentication key: Python's own TLS takes keys from files only, tlslite-ng from any object.

Invariants: TLS 1.2, ECDHE with AES-GCM, client signature RSA PKCS#1 v1.5 with SHA-256, which is what a CPS3 can do (so
not TLS 1.3, whose client signature is PSS); the server's certificate is judged by OpenSSL (authorities, dates, host name)
on a first connection, and the one that the second connection proves must be the very same; the record encryption is done
by `cryptography`, not by tlslite-ng's Python code, which is slow and not constant time.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import tlslite.recordlayer
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from tlslite.errors import BaseTLSException
from tlslite.handshakesettings import HandshakeSettings
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.python_rsakey import Python_RSAKey
from tlslite.x509 import X509
from tlslite.x509certchain import X509CertChain

_DIGEST_INFO = bytes.fromhex("3031300D060960864801650304020105000420")


class TlsFailed(Exception):
    """No TLS connection with the operator: unreachable, wrong certificate, or handshake refused."""


def connect(
    host: str,
    port: int,
    trust: ssl.SSLContext,
    certificate: x509.Certificate,
    sign: Callable[[bytes], bytes],
    *,
    seconds: float,
) -> Any:
    """A connected TLS socket (tlslite-ng's, with sendall, recv, makefile, close), logged in with `certificate`.

    `sign` makes an RSA PKCS#1 v1.5 signature over a SHA-256 digest; what it raises passes through. Raises TlsFailed."""
    expected = _judged(host, port, trust, seconds)
    try:
        raw = socket.create_connection((host, port), seconds)
    except OSError as error:
        raise TlsFailed(f"{host}:{port}: {error.strerror or error}") from None
    try:
        connection = TLSConnection(raw)
        connection.ignoreAbruptClose = True
        connection.handshakeClientCert(
            certChain=_chain(certificate),
            privateKey=_CardKey(certificate, sign),
            settings=_settings(),
            serverName=_name(host),
        )
        proved = bytes(connection.session.serverCertChain.x509List[0].bytes)
        if proved != expected:
            raise TlsFailed(f"{host}:{port}: the certificate changed between two connections")
    except (BaseTLSException, OSError) as error:
        raw.close()
        raise TlsFailed(f"{host}:{port}: {type(error).__name__}") from None
    except BaseException:
        raw.close()
        raise
    return connection


def _judged(host: str, port: int, trust: ssl.SSLContext, seconds: float) -> bytes:
    """The server's certificate (DER), once OpenSSL accepted it. TLS 1.2, so that it is the same one."""
    try:
        with (
            socket.create_connection((host, port), seconds) as raw,
            trust.wrap_socket(raw, server_hostname=host) as tls,
        ):
            found = tls.getpeercert(binary_form=True)
    except (ssl.SSLError, OSError) as error:
        raise TlsFailed(f"{host}:{port}: {getattr(error, 'verify_message', '') or error.strerror or error}") from None
    if not found:
        raise TlsFailed(f"{host}:{port}: no certificate")
    return found


def _name(host: str) -> str | None:
    """The name to ask for; an address is not one (RFC 6066 §3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _settings() -> HandshakeSettings:
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = (3, 3)
    settings.cipherNames = ["aes256gcm", "aes128gcm"]
    settings.keyExchangeNames = ["ecdhe_rsa"]
    settings.rsaSigHashes = ["sha256"]
    settings.rsaSchemes = ["pkcs1"]
    settings.useExtendedMasterSecret = True
    settings.requireExtendedMasterSecret = True
    return settings


def _chain(certificate: x509.Certificate) -> X509CertChain:
    own = X509()
    own.parseBinary(bytearray(certificate.public_bytes(Encoding.DER)))
    return X509CertChain([own])


class _CardKey(Python_RSAKey):  # type: ignore[misc]
    """A private key as tlslite-ng wants one, whose signatures are made elsewhere. Verifies like any public key."""

    def __init__(self, certificate: x509.Certificate, sign: Callable[[bytes], bytes]) -> None:
        public = certificate.public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            raise TlsFailed("the card's authentication key is not RSA")
        numbers = public.public_numbers()
        super().__init__(numbers.n, numbers.e)
        self._sign = sign

    def hasPrivateKey(self) -> bool:
        return True

    def sign(
        self, bytes: bytearray, padding: str = "pkcs1", hashAlg: str | None = None, saltLen: int | None = None
    ) -> bytearray:  # its names again
        """The signature of a DigestInfo that is already made (tlslite-ng's CertificateVerify)."""
        head, digest = bytes[: len(_DIGEST_INFO)], bytes[len(_DIGEST_INFO) :]
        if padding != "pkcs1" or hashAlg is not None or head != _DIGEST_INFO or len(digest) != 32:
            raise TlsFailed("the server wants a signature that the card does not make")
        return bytearray(self._sign(b"".join((digest,))))


class _Gcm:
    """AES-GCM with the attributes tlslite-ng's record layer looks at."""

    isBlockCipher = False
    isAEAD = True
    nonceLength = 12
    tagLength = 16
    implementation = "cryptography"

    def __init__(self, key: bytearray) -> None:
        self.name = f"aes{len(key) * 8}gcm"
        self._cipher = AESGCM(bytes(key))

    def seal(self, nonce: bytearray, plaintext: bytearray, data: bytearray = bytearray()) -> bytearray:  # noqa: B008
        return bytearray(self._cipher.encrypt(bytes(nonce), bytes(plaintext), bytes(data)))

    def open(self, nonce: bytearray, ciphertext: bytearray, data: bytearray = bytearray()) -> bytearray | None:  # noqa: B008
        with suppress(InvalidTag):
            return bytearray(self._cipher.decrypt(bytes(nonce), bytes(ciphertext), bytes(data)))
        return None


def _gcm(key: bytearray, _implementations: object = None) -> _Gcm:
    return _Gcm(key)


# The record layer asks its own module for ciphers and offers no other way to give it one.
tlslite.recordlayer.createAESGCM = _gcm
