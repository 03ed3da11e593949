"""Files of `caducee smime`: messages, certificates and keys, read with bounds; every fault is one line for people.

Invariant: a private key and its password are read, used and never shown or written.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key, pkcs7

import mime
import smime
from caducee.errors import UsageError
from smime.opening import MAX_SIZE

if TYPE_CHECKING:
    from smime.pkcs11 import Token

MAX_SMALL = 4 * 1024 * 1024
_PEM = re.compile(rb"-----BEGIN (?:CMS|PKCS7|PKCS #7 SIGNED DATA)-----(.+?)-----END", re.DOTALL)


def read_bytes(path: Path, limit: int = MAX_SMALL) -> bytes:
    """The octets of a file, or of standard input for `-`, at most `limit`. Raises UsageError."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        try:
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise UsageError(f"{path}: illisible ({why}) / cannot be read") from error
    if len(data) > limit:
        raise UsageError(f"{path}: plus de {limit >> 20} Mio, trop grand / too large (over {limit >> 20} MiB)")
    return data


def read_message(path: Path) -> bytes:
    """A message as it came. A bare CMS file (.p7m, DER or PEM) is put in an entity; a file with Unix line ends only gets
    those of the mail back, since every signature is over them. Raises UsageError."""
    data = read_bytes(path, MAX_SIZE)
    if not data.strip():
        raise UsageError(f"{path}: vide : donner un message (.eml) ou un fichier CMS (.p7m) / empty file")
    found = _PEM.search(data[:MAX_SIZE]) if data.startswith(b"-----BEGIN") else None
    if found is not None:
        try:
            data = base64.b64decode(found[1])
        except binascii.Error as error:
            raise UsageError(f"{path}: PEM illisible / broken PEM") from error
    if data[:1] == b"\x30":
        return mime.leaf("application/pkcs7-mime", data)
    return data if b"\r\n" in data else mime.to_crlf(data)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM, DER or PKCS#7 (.p7b, .p7c) file, in order. Raises UsageError."""
    data = read_bytes(path)
    for load in (_pem, _der, pkcs7.load_pem_pkcs7_certificates, pkcs7.load_der_pkcs7_certificates):
        try:
            found = load(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if found:
            return list(found)
    raise UsageError(f"{path}: aucun certificat (PEM, DER ou p7c attendu) / no certificate (PEM, DER or p7c expected)")


def _pem(data: bytes) -> Sequence[x509.Certificate]:
    return x509.load_pem_x509_certificates(data)


def _der(data: bytes) -> Sequence[x509.Certificate]:
    return [x509.load_der_x509_certificate(data)]


def read_key(path: Path, password_file: Path | None) -> Any:
    """A private key, PEM or DER, PKCS#8 or traditional. Raises UsageError."""
    data = read_bytes(path)
    password = None if password_file is None else read_bytes(password_file).rstrip(b"\r\n")
    load = load_pem_private_key if data.lstrip().startswith(b"-----") else load_der_private_key
    try:
        return load(data, password)
    except TypeError as error:
        raise UsageError(
            f"{path}: clé protégée ou non, l'inverse de ce qui est demandé : voir --password-file / check --password-file"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: clé illisible ou mot de passe faux / unreadable key or wrong password") from error


def read_moment(text: str | None) -> datetime:
    """An ISO 8601 moment (UTC unless it says otherwise), now without. Raises UsageError."""
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text}: date illisible, par exemple 2026-11-20T10:00 / not a date") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class KeyFiles:
    """Where a private key is: in a file, or in a PKCS#11 token. `chain`: the file of its certificates, leaf first."""

    def __init__(
        self,
        chain: Path,
        key: Path | None,
        password_file: Path | None,
        library: Path | None,
        token: str | None,
        key_label: str | None,
        pin_file: Path | None,
    ) -> None:
        self._chain = read_certificates(chain)
        self._key, self._password = key, password_file
        self._library, self._token, self._label, self._pin = library, token, key_label, pin_file
        if (key is None) == (library is None):
            raise UsageError(
                "une clé est dans un fichier (--key) ou dans un jeton (--pkcs11), l'un des deux / give --key or --pkcs11"
            )

    def signer(self) -> smime.Signer:
        """The signer. Raises UsageError."""
        try:
            if self._key is not None:
                return smime.SoftwareSigner(read_key(self._key, self._password), self._chain)
            return self._open().signer(self._chain, label=self._label)
        except (smime.SmimeError, AttributeError) as error:
            raise UsageError(f"clé inutilisable / unusable key: {error}") from error

    def decryptor(self) -> smime.Decryptor:
        """The decryptor. Raises UsageError."""
        try:
            if self._key is not None:
                return smime.SoftwareDecryptor(read_key(self._key, self._password), self._chain[0])
            return self._open().decryptor(self._chain[0], label=self._label)
        except (smime.SmimeError, AttributeError) as error:
            raise UsageError(f"clé inutilisable / unusable key: {error}") from error

    def _open(self) -> Token:
        if self._library is None or not self._token or not self._label or self._pin is None:
            raise UsageError("un jeton demande / a token needs --token, --key-label, --pin-file")
        from smime.pkcs11 import Token  # loads a native module, which most commands do without

        pin = read_bytes(self._pin).decode("utf-8", "replace").rstrip("\r\n")
        return Token.open(self._library.resolve(), label=self._token, pin=pin)
