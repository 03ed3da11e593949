"""Sealing, sub-keys, and the master key file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mailstore import Purpose, SealBroken, StoreError, create_master_key, derive_key, read_master_key, seal, unseal

KEY = bytes(range(32))


def test_a_sealed_value_opens_with_its_key_and_place_only() -> None:
    sealed = seal(KEY, b"secret", b"row 1")
    assert unseal(KEY, sealed, b"row 1") == b"secret"
    assert b"secret" not in sealed
    with pytest.raises(SealBroken):
        unseal(KEY, sealed, b"row 2")
    with pytest.raises(SealBroken):
        unseal(bytes(32), sealed, b"row 1")


def test_every_altered_byte_is_noticed() -> None:
    sealed = seal(KEY, b"secret", b"")
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(SealBroken):
            unseal(KEY, bytes(altered), b"")
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            unseal(KEY, sealed[:length], b"")


def test_sealing_twice_gives_two_texts() -> None:
    assert seal(KEY, b"same", b"") != seal(KEY, b"same", b"")


def test_sub_keys_are_hkdf_sha256_and_differ_by_purpose() -> None:
    assert len({derive_key(KEY, purpose) for purpose in Purpose}) == len(Purpose)
    options = ("digest:SHA256", f"hexkey:{KEY.hex()}", "info:caducee v1: sealed sql fields")
    given = [word for option in options for word in ("-kdfopt", option)]
    command = ["openssl", "kdf", "-keylen", "32", *given, "-binary", "HKDF"]
    witness = subprocess.run(command, capture_output=True, check=True).stdout
    assert derive_key(KEY, Purpose.FIELDS) == witness


def test_a_master_key_of_another_size_is_refused() -> None:
    with pytest.raises(StoreError):
        derive_key(KEY[:31], Purpose.FIELDS)


def test_master_key_file(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key = create_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_master_key(path) == key
    assert len(key) == 32
    with pytest.raises(StoreError, match="already exists"):
        create_master_key(path)
    assert read_master_key(path) == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_master_key_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    create_master_key(path)
    path.chmod(mode)
    with pytest.raises(StoreError, match="0600"):
        read_master_key(path)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_master_key_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(StoreError, match="32 bytes"):
        read_master_key(path)


def test_a_missing_master_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot read master key"):
        read_master_key(tmp_path / "none")
