"""A real store, a real server on free loopback ports, and a client that plays transcripts (`C:` / `S:` lines)."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imap import ImapServer, Limits, summarise
from mailstore import Account, MailboxKind, Store

ADDRESS = "claire.martin@medecin.mssante.fr"
PASSWORD = "correct horse battery"
AT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
MASTER = bytes(range(32))

SIMPLE = (
    b"From: Claire Martin <claire.martin@medecin.mssante.fr>\r\n"
    b"To: =?utf-8?q?Ren=C3=A9?= Petit <rene.petit@medecin.mssante.fr>\r\n"
    b"Subject: =?utf-8?q?R=C3=A9sultats?= du bilan\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0100\r\n"
    b"Message-ID: <one@medecin.mssante.fr>\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"\r\n"
    b"Glyc\xc3\xa9mie normale.\r\n"
)
MULTIPART = (
    b"From: a@medecin.mssante.fr\r\nSubject: parts\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\npreamble\r\n'
    b"--b1\r\nContent-Type: text/plain\r\n\r\nfirst part\r\n"
    b"--b1\r\nContent-Type: message/rfc822\r\n\r\n"
    b'Subject: inner\r\nContent-Type: multipart/alternative; boundary="b2"\r\n\r\n'
    b"--b2\r\n\r\ninner one\r\n--b2\r\nContent-Type: text/html\r\n\r\n<p>inner two</p>\r\n--b2--\r\n"
    b'\r\n--b1\r\nContent-Type: application/pdf; name="cr.pdf"\r\n'
    b'Content-Disposition: attachment; filename="cr.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n'
    b"--b1--\r\n"
)


def make_certificate(folder: Path) -> None:
    """A fresh self-signed certificate for 127.0.0.1 and its key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "server.pem", folder / "server.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@dataclass
class House:
    """The store on disk with one account; more instances may be opened on the same files."""

    folder: Path
    store: Store
    account: Account
    context: ssl.SSLContext
    certificate: Path
    url: str
    sleeps: list[float] = field(default_factory=list)

    def open_again(self) -> Store:
        """Another instance on the same files, as another process would have."""
        return Store.open(self.url, self.folder / "blobs", MASTER, index=summarise)

    def deliver(self, content: bytes = SIMPLE, folder: str = "INBOX", flags: frozenset[str] = frozenset()) -> int:
        """Adds a message that some session was told of already, so that it is not \\Recent; its UID."""
        uid = self.store.append(self.account.id, folder, content, flags, AT, AT)[1]
        self.store.claim_recent(self.store.folder(self.account.id, folder).id, take=True)
        return uid

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    @asynccontextmanager
    async def serving(self, limits: Limits | None = None, **options: Any) -> AsyncIterator[ImapServer]:
        """A running server with both ports; failed logins do not wait but note how long they would have."""

        async def sleep(seconds: float) -> None:
            self.sleeps.append(seconds)

        server = ImapServer(
            self.store,
            options.pop("context", self.context),
            port_tls=0,
            port_starttls=0,
            limits=limits,
            sleep=sleep,
            clock=lambda: AT,
            **options,
        )
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


def make_house(folder: Path, url: str = "") -> None:
    """A new store with one mailbox, and a certificate, in `folder`; its rows in the database at `url`, or in SQLite."""
    store = Store.create(url or f"sqlite:///{folder / 'store.db'}", folder / "blobs", MASTER)
    store.add_account(
        ADDRESS,
        MailboxKind.PER,
        display_name="Claire Martin",
        national_id="810002909371",
        password=PASSWORD,
        at=AT,
    )
    store.close()
    make_certificate(folder)


def open_house(folder: Path, url: str = "") -> House:
    """The house in `folder`, its store with summaries."""
    url = url or f"sqlite:///{folder / 'store.db'}"
    store = Store.open(url, folder / "blobs", MASTER, index=summarise)
    account = store.find_account(ADDRESS)
    assert account is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return House(folder, store, account, context, folder / "server.pem", url)


class Client:
    """A bare client: sends what it is told, reads lines and literals as one response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, house: House, server: ImapServer, *, tls: bool = True) -> Client:
        port = server.ports[0 if tls else 1]
        context = house.client_context() if tls else None
        client = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**22))
        greeting = await client.response()
        assert greeting.startswith(b"* OK [CAPABILITY IMAP4rev1")
        return client

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None = None) -> Client:
        """A connection to any server, in clear or with TLS."""
        client = cls(*await asyncio.open_connection(host, port, ssl=context, limit=2**22))
        assert (await client.response()).startswith(b"* OK")
        return client

    async def response(self) -> bytes:
        """One response, literals included; b"" when the server has closed."""
        out = b""
        async with asyncio.timeout(10):
            while True:
                line = await self.reader.readline()
                out += line
                match = re.search(rb"\{(\d+)\}\r\n\Z", line)
                if match is None:
                    return out
                out += await self.reader.readexactly(int(match[1]))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def command(self, text: str | bytes) -> list[bytes]:
        """Sends a tagged command (with literals inline as LITERAL+) and returns all responses, the tagged one last."""
        raw = text.encode() if isinstance(text, str) else text
        tag = raw.split(b" ", 1)[0]
        await self.send(raw + b"\r\n")
        found: list[bytes] = []
        while True:
            response = await self.response()
            if not response:
                return found
            found.append(response)
            if response.startswith(tag + b" "):
                return found

    async def login(self) -> None:
        answer = await self.command(f'l LOGIN {ADDRESS} "{PASSWORD}"')
        assert answer[-1].startswith(b"l OK"), answer

    async def eof(self) -> bool:
        """Whether the server closes without a word more (over octets it did not read, it resets)."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    def close(self) -> None:
        self.writer.close()


def _pattern(expected: str) -> re.Pattern[str]:
    """An `S:` line: exact, but `<...>` stands for any text."""
    return re.compile(re.escape(expected).replace(re.escape("<...>"), ".*") + r"\Z", re.DOTALL)


def wire(text: str) -> bytes:
    r"""A `C:` line as sent: `\r\n` is a line end, and `<<text>>` a literal sent without waiting."""
    raw = text.encode().replace(b"\\r\\n", b"\r\n")
    raw = re.sub(
        rb"(~?)<<(.*?)>>", lambda found: b"%b{%d+}\r\n%b" % (found[1], len(found[2]), found[2]), raw, flags=re.DOTALL
    )
    return raw + b"\r\n"


async def play(client: Client, script: str) -> None:
    r"""Plays a transcript. `C:` lines are sent, `S:` (and `S?:`, which other servers need not say) must come in order."""
    for number, line in enumerate(script.strip().splitlines(), 1):
        kind, _, text = line.strip().partition(": ")
        if kind == "C":
            await client.send(wire(text))
        elif kind in ("S", "S?"):
            text = text.replace("\\r\\n", "\r\n")
            got = (await client.response()).decode("utf-8").removesuffix("\r\n")
            assert _pattern(text).match(got), f"line {number}\nexpected: {text}\n     got: {got}"
