"""Encrypted files: what comes back, what an attacker at the disk can do, what a failing disk does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstore import BlobDamaged, BlobStore, NoSuchMessage
from mailstore.blobformat import CHUNK, HEADER_SIZE
from mailstore.crypto import TAG_SIZE

KEY = bytes(range(32))
SEALED_CHUNK = CHUNK + TAG_SIZE


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", KEY)


def path_of(tmp_path: Path, blob: str) -> Path:
    return tmp_path / "blobs" / blob[:2] / blob


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17])
def test_what_was_written_is_read(blobs: BlobStore, size: int) -> None:
    content = os.urandom(size)
    blob = blobs.write(content)
    assert blobs.read(blob) == content
    assert blobs.size(blob) == size
    assert BlobStore(blobs._folder, KEY).read(blob) == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.integers(0, 3 * CHUNK + 40), st.none() | st.integers(0, 3 * CHUNK + 40))
def test_a_part_is_the_slice(blobs: BlobStore, start: int, stop: int | None) -> None:
    content = bytes(number % 251 for number in range(2 * CHUNK + 33))
    blob = blobs.write(content)
    assert blobs.read(blob, start, stop) == content[start:stop]
    blobs.delete(blob)


def test_a_partial_read_needs_its_chunks_only(blobs: BlobStore, tmp_path: Path) -> None:
    content = os.urandom(4 * CHUNK)
    blob = blobs.write(content)
    with path_of(tmp_path, blob).open("r+b") as file:
        file.seek(HEADER_SIZE + 2 * SEALED_CHUNK)
        file.write(b"altered")
    assert blobs.read(blob, 0, 2 * CHUNK) == content[: 2 * CHUNK]
    assert blobs.read(blob, 3 * CHUNK) == content[3 * CHUNK :]
    with pytest.raises(BlobDamaged):
        blobs.read(blob, 2 * CHUNK, 2 * CHUNK + 1)


def test_truncation_is_noticed_by_any_read(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.write(os.urandom(3 * CHUNK))
    path = path_of(tmp_path, blob)
    whole = path.read_bytes()
    for length in (0, 5, HEADER_SIZE, HEADER_SIZE + SEALED_CHUNK, HEADER_SIZE + 2 * SEALED_CHUNK, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BlobDamaged):
            blobs.read(blob, 0, 10)
        with pytest.raises(BlobDamaged):
            blobs.size(blob)


def test_a_smaller_size_written_in_the_header_is_noticed(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.write(os.urandom(2 * CHUNK))
    path = path_of(tmp_path, blob)
    whole = path.read_bytes()
    forged = whole[:8] + CHUNK.to_bytes(8, "big") + whole[16 : HEADER_SIZE + SEALED_CHUNK]
    path.write_bytes(forged)
    with pytest.raises(BlobDamaged):
        blobs.read(blob)


def test_reordered_chunks_are_noticed(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.write(os.urandom(3 * CHUNK))
    path = path_of(tmp_path, blob)
    whole = path.read_bytes()
    chunks = [whole[HEADER_SIZE + n * SEALED_CHUNK : HEADER_SIZE + (n + 1) * SEALED_CHUNK] for n in range(3)]
    path.write_bytes(whole[:HEADER_SIZE] + chunks[1] + chunks[0] + chunks[2])
    with pytest.raises(BlobDamaged):
        blobs.read(blob, 0, 10)


def test_blobs_and_their_parts_cannot_be_exchanged(blobs: BlobStore, tmp_path: Path) -> None:
    one, other = blobs.write(b"1" * 2 * CHUNK), blobs.write(b"2" * 2 * CHUNK)
    first, second = path_of(tmp_path, one).read_bytes(), path_of(tmp_path, other).read_bytes()
    path_of(tmp_path, one).write_bytes(second)
    with pytest.raises(BlobDamaged):
        blobs.read(one)
    path_of(tmp_path, one).write_bytes(first[:HEADER_SIZE] + second[HEADER_SIZE:])
    with pytest.raises(BlobDamaged):
        blobs.read(one)


def test_another_master_key_reads_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.write(b"x")
    with pytest.raises(BlobDamaged):
        BlobStore(tmp_path / "blobs", bytes(32)).read(blob)


@pytest.mark.parametrize("blob", ["", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 32 + "\n", "0" * 32])
def test_unknown_and_malformed_ids(blobs: BlobStore, blob: str) -> None:
    with pytest.raises(NoSuchMessage):
        blobs.read(blob)


def test_files_are_private(blobs: BlobStore, tmp_path: Path) -> None:
    blob = blobs.write(b"x")
    assert path_of(tmp_path, blob).stat().st_mode & 0o777 == 0o600


def test_the_sweep_takes_old_orphans_only(blobs: BlobStore, tmp_path: Path) -> None:
    kept, orphan, young = (blobs.write(b"x") for _ in range(3))
    unfinished = path_of(tmp_path, "ab" * 16).with_suffix(".tmp")
    unfinished.write_bytes(b"half")
    stranger = tmp_path / "blobs" / "ab" / "README"
    stranger.write_bytes(b"not ours")
    past = time.time() - 7200
    for path in (path_of(tmp_path, kept), path_of(tmp_path, orphan), unfinished, stranger):
        os.utime(path, (past, past))
    assert blobs.sweep({kept}, datetime.now(UTC) - timedelta(hours=1)) == 2
    assert blobs.read(kept) == blobs.read(young) == b"x"
    assert not unfinished.exists()
    assert stranger.exists()
    with pytest.raises(NoSuchMessage):
        blobs.read(orphan)


@pytest.mark.slow
def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel refuses files over 100 KB in a child process: a write fails half-way for real."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from mailstore import BlobStore, StoreUnavailable
        blobs = BlobStore(Path(sys.argv[1]), bytes(range(32)))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            blobs.write(bytes(1_000_000))
        except StoreUnavailable as error:
            assert "Cannot write content" in str(error), error
        else:
            sys.exit("no error")
        assert blobs.read(blobs.write(b"small")) == b"small"
    """)
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "blobs")], check=True)
    files = [path for path in (tmp_path / "blobs").glob("??/*") if path.is_file()]
    assert len(files) == 1
