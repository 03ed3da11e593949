"""Reading and writing certificates, CRLs and private keys, PEM or DER, with errors that name the file.

Invariants: private keys are written 0600, never through a wider mode; files are replaced atomically; reading is
bounded; no error text contains key material.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from trustspace.model import TrustSpaceError

MAX_CERTIFICATE_FILE = 4 * 1024 * 1024
MAX_CRL_FILE = 64 * 1024 * 1024
_CERTIFICATE_SUFFIXES = frozenset({".pem", ".crt", ".cer", ".der"})
_CRL_SUFFIXES = frozenset({".crl", ".pem", ".der"})


class UnreadableFile(TrustSpaceError):
    """A certificate, CRL or key file is absent, too large, or not what it should be."""


class NoAnchor(UnreadableFile):
    """A folder of anchors holds none."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` octets. Raises UnreadableFile."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UnreadableFile(f"{path.name}: {error.strerror or 'cannot be read'}") from error
    if len(content) > limit:
        raise UnreadableFile(f"{path.name}: larger than {limit} octets")
    return content


def certificates_of(content: bytes, label: str = "certificate") -> tuple[x509.Certificate, ...]:
    """One DER certificate, or all the PEM ones, in the order of the file. Raises UnreadableFile."""
    try:
        if b"-----BEGIN" in content:
            found = tuple(x509.load_pem_x509_certificates(content))
        else:
            found = (x509.load_der_x509_certificate(content),)
        _ = [(one.subject, one.issuer) for one in found]  # read on demand: now
        return found
    except ValueError as error:
        raise UnreadableFile(f"{label}: ni certificat PEM, ni DER / neither a PEM nor a DER certificate") from error


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM or DER file (a chain is leaf first). Raises UnreadableFile."""
    return certificates_of(read_bounded(path, MAX_CERTIFICATE_FILE), path.name)


def read_certificate_folder(folder: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of all files of a folder, sorted by file name, each once; () when there is no folder.

    Raises UnreadableFile: one bad file is an error of configuration, and is not passed over.
    """
    found: dict[x509.Certificate, None] = {}
    for path in folder_files(folder, _CERTIFICATE_SUFFIXES):
        found.update(dict.fromkeys(read_certificates(path)))
    return tuple(found)


def crl_of(content: bytes, label: str = "crl") -> x509.CertificateRevocationList:
    """A PEM or DER CRL. Raises UnreadableFile."""
    try:
        load = x509.load_pem_x509_crl if content.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_crl
        crl = load(content)
        _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc)  # read on demand: now
        return crl
    except ValueError as error:
        raise UnreadableFile(f"{label}: ni CRL PEM, ni DER / neither a PEM nor a DER CRL") from error


def read_crl(path: Path) -> x509.CertificateRevocationList:
    """The CRL of a PEM or DER file. Raises UnreadableFile."""
    return crl_of(read_bounded(path, MAX_CRL_FILE), path.name)


def crl_files(folder: Path) -> list[Path]:
    """The CRL files of a folder, sorted by name; [] when there is no folder."""
    return folder_files(folder, _CRL_SUFFIXES)


def folder_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The visible regular files of a folder that bear one of the suffixes, sorted by name."""
    try:
        children = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [
        path
        for path in children
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]


def read_private_key(path: Path, password: bytes | None = None) -> PrivateKeyTypes:
    """A PEM or DER private key. Raises UnreadableFile (wrong password, not a key)."""
    content = read_bounded(path, MAX_CERTIFICATE_FILE)
    try:
        if b"-----BEGIN" in content:
            return load_pem_private_key(content, password)
        return load_der_private_key(content, password)
    except (ValueError, TypeError) as error:
        raise UnreadableFile(f"{path.name}: not a private key, or not with this password") from error


def chain_to_pem(chain: Sequence[x509.Certificate]) -> bytes:
    """The certificates one after the other in PEM, in the order given."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def key_to_pem(key: PrivateKeyTypes) -> bytes:
    """An unencrypted PKCS #8 PEM key: for `write_private`, never for a log."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_public(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably, mode 0644."""
    _write(path, content, 0o644)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably, mode 0600 from its first octet."""
    _write(path, content, 0o600)


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner enters (0700), parents included as usual; returns it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def _write(path: Path, content: bytes, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """The new name of a file is on disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
