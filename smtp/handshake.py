"""TLS between operators, where the peer's certificate is judged after the handshake (ADR 0034).

OpenSSL, through Python's `ssl`, ends the handshake itself on an expired or foreign certificate: the peer's engineer sees an
alert, and no reply, no rule, no reference. Here the handshake proves possession of the key only; who the peer is, is decided
by `TrustSpace` on the certificate, before anything but EHLO is heard or said. A client also asks the server for the OCSP
status of its certificate (RFC 6066 §8), which `ssl` cannot.

Invariants: no decision is taken here: a certificate of this module is a claim with a proven key, never a trusted one; version
and suites are those of `trustspace.tls`; no tickets, no renegotiation, no session cache. The octets go through pyOpenSSL;
`secured.py`, for what we accept, and the event loop, for what we open, see an `ssl.SSLContext` and an object like
`ssl.SSLObject`, through the one method they call, `wrap_bio`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any, Protocol, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL import _util as binding

from trustspace import pem
from trustspace.tls import TLS12_SUITES, Chain, Key

MAX_CHAIN = 4
"""Certificates kept of what a peer sends with its own."""
_EXPORTER = b"EXPORTER-Channel-Binding"
_RECORD = 16384
_FLIGHT = 4096
"""Octets of a handshake's answer taken at once."""
_OVERHEAD = 512
"""Octets that TLS adds to some of a reply, at most as a rule."""
_MAX_STATUS = 64 * 1024
_RELEASE_BUFFERS = 0x10  # SSL_MODE_RELEASE_BUFFERS: an idle session keeps no record buffers


class DecidingContext(ssl.SSLContext):
    """A server's context that asks for a client certificate and takes any, or none."""

    _inner: SSL.Context
    _end_point: bytes

    @classmethod
    def build(cls, chain: Chain, key: Key) -> Self:
        """From PEM files or objects, leaf first. Raises pem.UnreadableFile or ssl.SSLError."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._inner, leaf = _inner(SSL.TLS_SERVER_METHOD, chain, key)
        context._inner.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        context._end_point = _end_point(leaf)
        return context

    def wrap_bio(self, incoming: Any, outgoing: Any, *_args: Any, **_kwargs: Any) -> Any:
        """What `secured.Secured` calls for each connection: a Channel between a Source and a Sink."""
        connection = SSL.Connection(self._inner, None)
        connection.set_accept_state()
        return Channel(connection, self._end_point, incoming, outgoing)


class AskingContext(ssl.SSLContext):
    """A client's context towards other operators: shows our certificate, asks the server for its OCSP status."""

    _inner: SSL.Context

    @classmethod
    def build(cls, chain: Chain, key: Key) -> Self:
        """From PEM files or objects, leaf first. Raises pem.UnreadableFile or ssl.SSLError."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the list ties no host name to a domain: the full DN decides (mssante.md §2)
        context._inner, _ = _inner(SSL.TLS_CLIENT_METHOD, chain, key)
        context._inner.set_ocsp_client_callback(_keep_status)
        return context

    def wrap_bio(
        self, incoming: Any, outgoing: Any, server_side: bool = False, server_hostname: Any = None, session: Any = None
    ) -> Any:
        """What asyncio and uvloop call for each connection."""
        connection = SSL.Connection(self._inner, None)
        connection.set_connect_state()
        connection.set_app_data([])
        connection.request_ocsp()
        if name := _server_name(server_hostname or ""):
            connection.set_tlsext_host_name(name)
        return Channel(connection, b"", incoming, outgoing)


class Source(Protocol):
    """Where octets of the network come from: an `ssl.MemoryBIO`, or lighter."""

    def read(self, size: int, /) -> bytes | memoryview:
        """The next ones, at most `size`; none when there are none."""


class Sink(Protocol):
    """Where octets for the network go: an `ssl.MemoryBIO`, or a transport."""

    def write(self, data: bytes, /) -> object:
        """Take them all."""


class Channel:
    """One connection: the part of `ssl.SSLObject` that event loops use, and what the SMTP room asks of it."""

    __slots__ = ("_connection", "_end_point", "_incoming", "_outgoing", "_unread")

    def __init__(self, connection: SSL.Connection, end_point: bytes, incoming: Source, outgoing: Sink) -> None:
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        self._end_point = end_point
        self._unread = False

    def do_handshake(self) -> None:
        """One step. Raises ssl.SSLWantReadError until it is done; ssl.SSLError."""
        self._run(self._connection.do_handshake)
        _renew_outgoing(self._connection)

    def read(self, size: int = 16384, buffer: Any = None) -> Any:
        """Decrypted octets, b"" once the peer has closed; into `buffer` (their count is then answered) when given."""
        try:
            data = self._run(self._connection.recv, min(size, _RECORD))
        except ssl.SSLZeroReturnError:
            data = b""
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Encrypt; answers how many octets were taken."""
        return int(self._run(self._connection.send, data, room=len(data) + _OVERHEAD))

    def pending(self) -> int:
        """Octets decrypted and not read yet; a whole record that waits in OpenSSL's buffer counts, or a loop that looks
        here would let it wait for ever."""
        if not self._connection.pending() and self._unread:
            try:
                self._connection.recv(1, socket.MSG_PEEK)
            except SSL.WantReadError:
                self._unread = False
            except SSL.Error:
                return 1  # the next read tells which
        return self._connection.pending()

    def unwrap(self) -> None:
        """Say goodbye; waits for nothing: SMTP has its own end (QUIT), and truncation is seen by the protocol."""
        self._run(self._connection.shutdown)

    def version(self) -> str:
        """Such as `TLSv1.3`."""
        return str(self._connection.get_protocol_version_name())

    def cipher(self) -> tuple[str, str, int] | None:
        """As ssl.SSLObject.cipher."""
        name = self._connection.get_cipher_name()
        return (name, self.version(), self._connection.get_cipher_bits() or 0) if name else None

    def compression(self) -> None:
        """None: there is never any."""

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The certificate whose key the peer proved, in DER; the decoded form is empty, as for one not verified."""
        if not binary_form:
            return {}
        certificate = self.peer_certificate()
        return certificate.public_bytes(Encoding.DER) if certificate is not None else None

    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key the peer proved; None without one, or when it cannot be read."""
        try:
            return self._connection.get_peer_certificate(as_cryptography=True)
        except ValueError:
            return None

    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """What the peer sent with its certificate, at most MAX_CHAIN, unproven."""
        try:
            return tuple((self._connection.get_peer_cert_chain(as_cryptography=True) or [])[1 : MAX_CHAIN + 1])
        except ValueError:
            return ()

    def stapled(self) -> bytes | None:
        """The OCSP response (DER) that the server gave with its certificate, unverified; None without one."""
        kept = self._connection.get_app_data()
        return kept[0] if kept else None

    def channel_binding(self, kind: str) -> bytes | None:
        """`tls-exporter` (RFC 9266) and `tls-server-end-point` (RFC 5929 §4); None for others, or where undefined."""
        if kind == "tls-server-end-point":
            return self._end_point
        if kind == "tls-exporter" and self.version() == "TLSv1.3":
            return self._connection.export_keying_material(_EXPORTER, 32, b"")
        return None

    def _run(self, operation: Any, *arguments: Any, room: int = _FLIGHT) -> Any:
        """Run one operation of OpenSSL between source and sink, with the errors that event loops know. `room`: octets that
        it may have made for the peer, as a rule."""
        try:
            while True:
                try:
                    return operation(*arguments)
                except SSL.WantReadError:
                    if not self._fill():
                        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more octets needed") from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "closed") from None
        except SSL.WantWriteError:
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "buffer full") from None
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, _reason(error)) from None
        finally:
            self._drain(room)

    def _fill(self) -> bool:
        """Give OpenSSL some more, when it has used all it had: its buffer keeps for good the largest size it ever had."""
        if data := self._incoming.read(_RECORD):
            self._connection.bio_write(data)
            self._unread = True
        return bool(data)

    def _drain(self, room: int) -> None:
        # pyOpenSSL takes a buffer of the size asked for: large ones, between what lives as long as a session, leave holes.
        while True:
            try:
                self._outgoing.write(self._connection.bio_read(room))
            except (SSL.WantReadError, SSL.Error):
                return


def _renew_outgoing(connection: SSL.Connection) -> None:
    """Give a connection whose outgoing buffer is empty a new one: OpenSSL's keeps the size of the largest flight, our
    certificates, for as long as the session lasts (ADR 0058). pyOpenSSL has no call for it; where its parts are not those
    known here, nothing is done and nothing is lost."""
    parts: Any = connection
    try:
        incoming, outgoing = parts._into_ssl, binding.lib.BIO_new(binding.lib.BIO_s_mem())
        if outgoing == binding.ffi.NULL:
            return
        binding.lib.SSL_set_bio(parts._ssl, incoming, outgoing)  # frees the old one, and owns the new one
        parts._from_ssl = outgoing
    except AttributeError:
        return


def _inner(method: int, chain: Chain, key: Key) -> tuple[SSL.Context, x509.Certificate]:
    """pyOpenSSL's context with our certificate, and that certificate."""
    certificates = pem.read_certificates(chain) if isinstance(chain, Path) else list(chain)
    private = pem.read_private_key(key) if isinstance(key, Path) else key
    inner = SSL.Context(method)
    inner.set_min_proto_version(SSL.TLS1_2_VERSION)
    inner.set_cipher_list(":".join(TLS12_SUITES).encode("ascii"))
    inner.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    inner.set_mode(_RELEASE_BUFFERS)
    inner.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    inner.set_verify(SSL.VERIFY_PEER, _noted)
    try:
        inner.use_certificate(certificates[0])
        for extra in certificates[1:]:
            inner.add_extra_chain_cert(extra)
        inner.use_privatekey(cast(Any, private))
        inner.check_privatekey()
    except SSL.Error as error:
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "certificate and key cannot be used together") from error
    return inner, certificates[0]


def _keep_status(connection: SSL.Connection, response: bytes, _data: object) -> bool:
    """OpenSSL's callback: remembers the response, when there is one of a size that ocsp.py reads."""
    if 0 < len(response) <= _MAX_STATUS:
        connection.get_app_data().append(response)
    return True


def _server_name(host: str) -> bytes:
    """The name to ask the server for (RFC 6066 §3: no address, no final dot); b"" when DNS gave what is no such name."""
    host = host.rstrip(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            return host.encode("idna")
        except UnicodeError:
            return b""
    return b""


def _noted(*_: object) -> bool:
    """OpenSSL's own opinion of a chain is not asked: TrustSpace decides, later, on the certificate."""
    return True


def _end_point(certificate: x509.Certificate) -> bytes:
    """RFC 5929 §4.1: the digest of our certificate, SHA-256 where its own hash is MD5 or SHA-1."""
    algorithm = certificate.signature_hash_algorithm
    name = algorithm.name if algorithm is not None and algorithm.name not in ("md5", "sha1") else "sha256"
    return hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words for an error: constants of the library, nothing of what was exchanged."""
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in stack[:3]) or "TLS failure"
