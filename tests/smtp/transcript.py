"""Plays C:/S: transcripts over a socket. `S:` lines are prefixes that must match in order; `C:` lines are sent with CRLF."""

from __future__ import annotations

import asyncio
import ssl

from trustspace import Issued, TrustSpace, client_context


class Dialogue:
    """A raw connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None) -> Dialogue:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1" if tls else None
        )
        return cls(reader, writer)

    async def play(self, script: str) -> None:
        """Play a script; raises AssertionError at the first line that differs."""
        for line in (one.strip() for one in script.strip().splitlines()):
            side, _, text = line.partition(": ")
            if side == "C":
                await self.raw(text.encode() + b"\r\n")
            elif side == "S":
                got = (await self.line()).decode()
                assert got.startswith(text), f"expected {text!r}, got {got!r}"
            else:
                assert line.startswith("#") or not line, line

    async def raw(self, data: bytes) -> None:
        """Send octets as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def line(self) -> bytes:
        """One line without its CRLF; b"" at the end of the connection."""
        async with asyncio.timeout(10):
            return (await self.reader.readline()).rstrip(b"\r\n")

    async def reply(self) -> bytes:
        """One whole reply, joined by spaces."""
        lines = []
        while True:
            line = await self.line()
            lines.append(line)
            if line[3:4] != b"-":
                return b" ".join(lines)

    async def starttls(self, tls: ssl.SSLContext) -> None:
        """Change to TLS after a 220."""
        await self.writer.start_tls(tls, server_hostname="127.0.0.1")

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()


def client_tls(trust: TrustSpace, certificate: Issued | None = None) -> ssl.SSLContext:
    """A client context, with or without a client certificate."""
    chain, key = (certificate.chain, certificate.key) if certificate else (None, None)
    return client_context(chain, key, trust.anchors, check_hostname=False)
