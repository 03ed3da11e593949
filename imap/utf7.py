"""Modified UTF-7, the encoding of mailbox names on the wire (RFC 3501 §5.1.3).

Invariant: the mapping is one to one. A name that is not in its canonical encoding is refused, so that two spellings on
the wire never mean the same folder.
"""

from __future__ import annotations

import base64
import binascii


def _encode_run(run: str) -> bytes:
    packed = base64.b64encode(run.encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
    return b"&" + packed + b"-"


def encode(name: str) -> bytes:
    """The wire form of a mailbox name. Raises ValueError when the name holds lone surrogates."""
    out = bytearray()
    run: list[str] = []
    for character in name:
        if " " <= character <= "~":
            if run:
                out += _encode_run("".join(run))
                run.clear()
            out += b"&-" if character == "&" else character.encode("ascii")
        else:
            run.append(character)
    if run:
        out += _encode_run("".join(run))
    return bytes(out)


def _decode_run(run: bytes) -> str:
    if not run:
        return "&"
    padded = run.replace(b",", b"/") + b"=" * (-len(run) % 4)
    try:
        return base64.b64decode(padded, validate=True).decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("mailbox name is not in modified UTF-7") from error


def decode(wire: bytes) -> str:
    """The name behind a wire form. Raises ValueError for anything but the canonical encoding."""
    out: list[str] = []
    position = 0
    while position < len(wire):
        start = wire.find(b"&", position)
        plain = wire[position:] if start < 0 else wire[position:start]
        if any(byte < 0x20 or byte > 0x7E for byte in plain):
            raise ValueError("mailbox name is not in modified UTF-7")
        out.append(plain.decode("ascii"))
        if start < 0:
            break
        end = wire.find(b"-", start)
        if end < 0:
            raise ValueError("mailbox name is not in modified UTF-7")
        out.append(_decode_run(wire[start + 1 : end]))
        position = end + 1
    name = "".join(out)
    if encode(name) != wire:
        raise ValueError("mailbox name is not in canonical modified UTF-7")
    return name
