"""Encryption at rest: sealing, sub-keys and the master key file. Shared by the mail store and the record.

Invariants:
* a master key never encrypts anything itself: each purpose has its own key (HKDF-SHA256, RFC 5869), so that a value
  sealed for one purpose never opens under another;
* every sealed value carries a fresh random 96-bit nonce and is bound to its place by the additional data: a value moved
  to another row does not open (AES-256-GCM, NIST SP 800-38D; random nonces allow 2^32 values under one key).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailstore.model import StoreError

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16


class Purpose(StrEnum):
    """What a sub-key is for; the value is the label given to HKDF and never changes."""

    FIELDS = "sealed sql fields"
    FINGERPRINTS = "fingerprints"
    BLOB_KEYS = "wrapping of blob keys"
    KEY_RING = "wrapping of the key ring"


class SealBroken(StoreError):
    """A sealed value does not authenticate: altered, moved from its place, or sealed under another key."""


def derive_key(master_key: bytes, purpose: Purpose) -> bytes:
    """The 32-byte sub-key of `master_key` for one purpose. Raises StoreError when the master key is not 32 bytes."""
    if len(master_key) != KEY_SIZE:
        raise StoreError("La clé maîtresse doit faire 32 octets. / The master key must be 32 bytes long.")
    label = b"caducee v1: " + purpose.value.encode("ascii")
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=label).derive(master_key)


def seal(key: bytes, data: bytes, aad: bytes) -> bytes:
    """`data` encrypted under the 32-byte `key` and bound to `aad`: nonce, ciphertext, tag in one string of bytes."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, data, aad)


def unseal(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """The data given to `seal` with the same key and `aad`. Raises SealBroken in every other case."""
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        raise SealBroken("Donnée scellée tronquée. / Sealed value is truncated.")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], aad)
    except InvalidTag:
        raise SealBroken(
            "Donnée scellée altérée, déplacée ou scellée sous une autre clé. "
            "/ Sealed value altered, moved, or sealed under another key."
        ) from None


class KeyRing:
    """The keys of one purpose, newest first: the newest seals, each may open. Thread safe."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = tuple(AESGCM(key) for key in keys)

    def seal(self, data: bytes, aad: bytes) -> bytes:
        """As `seal`, under the newest key."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._ciphers[0].encrypt(nonce, data, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """As `unseal`, under whichever key opens. Raises SealBroken."""
        return self.open(sealed, aad)[0]

    def unseal_all(self, sealed: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """As `unseal` for many values, each with its aad: nearly all are under the newest key."""
        decrypt, out = self._ciphers[0].decrypt, []
        for value, aad in sealed:
            try:
                out.append(decrypt(value[:NONCE_SIZE], value[NONCE_SIZE:], aad))
            except (InvalidTag, ValueError):
                out.append(self.unseal(value, aad))
        return out

    def open(self, sealed: bytes, aad: bytes) -> tuple[bytes, bool]:
        """The data, and whether the newest key sealed it. Raises SealBroken."""
        nonce, ciphertext = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
        if len(ciphertext) >= TAG_SIZE:
            for age, cipher in enumerate(self._ciphers):
                try:
                    return cipher.decrypt(nonce, ciphertext, aad), age == 0
                except InvalidTag:
                    continue
        raise SealBroken(
            "Donnée scellée altérée, déplacée ou scellée sous une autre clé. "
            "/ Sealed value altered, moved, or sealed under another key."
        )


def create_master_key(path: Path) -> bytes:
    """Write a new random master key to `path` (mode 0600, synced) and return it.

    Refuses to overwrite: replacing a master key would lose everything it protects. Raises StoreError.
    """
    key = os.urandom(KEY_SIZE)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise StoreError(f"La clé maîtresse {path} existe déjà. / Master key {path} already exists.") from None
    except OSError as error:
        raise StoreError(
            f"Impossible d'écrire la clé maîtresse {path} ({error.strerror}). / Cannot write master key {path}."
        ) from error
    try:
        os.fchmod(handle, 0o600)
        os.write(handle, key)
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(path.parent)
    return key


def read_master_key(path: Path) -> bytes:
    """The master key kept in `path`.

    Raises StoreError when the file is missing, is not exactly 32 bytes, or may be read or written by anyone but its
    owner: a key others can read protects nothing.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise StoreError(
            f"Impossible de lire la clé maîtresse {path} ({error.strerror}). / Cannot read master key {path}."
        ) from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise StoreError(
            f"La clé maîtresse {path} est accessible à d'autres que son propriétaire ; droits attendus : 0600. "
            f"/ Master key {path} is accessible to others than its owner; expected mode: 0600."
        )
    if len(key) != KEY_SIZE:
        raise StoreError(
            f"La clé maîtresse {path} ne fait pas {KEY_SIZE} octets. / Master key {path} is not {KEY_SIZE} bytes long."
        )
    return key


def sync_folder(folder: Path) -> None:
    """Make the names created, renamed or removed in `folder` durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
