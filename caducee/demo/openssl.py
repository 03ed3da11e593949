"""OpenSSL as a witness that is not ours: what it says of the messages our programs made."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from caducee.errors import UsageError
from trustspace import Issued, PracticeAuthority


def verify(message: bytes, authority: PracticeAuthority) -> str:
    """`openssl cms -verify` with the authority's roots: its own last line. Raises UsageError when it refuses."""
    roots = authority.folder / "anchors"
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "roots.pem"
        bundle.write_bytes(b"".join(path.read_bytes() for path in sorted(roots.glob("*.pem"))))
        # "-purpose any": OpenSSL's S/MIME purpose wants an e-mail usage that card certificates need not have.
        return _cms(["-verify", "-CAfile", str(bundle), "-purpose", "any"], message)[1]


def decrypt(message: bytes, key: Issued, workshop: Path) -> bytes:
    """`openssl cms -decrypt` with a recipient's key: the clear entity. Raises UsageError when it refuses.

    The key is written 0600 for the time of the command in `workshop`; the message goes through pipes, never to disk.
    """
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        chain, private = key.write(Path(folder), "recipient")
        return _cms(["-decrypt", "-recip", str(chain), "-inkey", str(private)], message)[0]


def _cms(arguments: Sequence[str], message: bytes) -> tuple[bytes, str]:
    try:
        done = subprocess.run(
            ["openssl", "cms", *arguments], input=message, capture_output=True, timeout=30, check=False
        )
    except FileNotFoundError:
        raise UsageError("openssl: programme absent / program not found") from None
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        raise UsageError(f"openssl cms {arguments[0]}: {said[-1] if said else done.returncode}")
    return done.stdout, said[-1] if said else "ok"
