"""TLS contexts of an operator: version, suites and peer verification (mssante.md §2, §3.2).

Invariants: TLS 1.2 or later; the four ECDHE-RSA suites of ECO.1.1.3 and those of TLS 1.3; no session tickets, no
compression, no renegotiation; a peer certificate, when there is one, chains to the given anchors: an expired or foreign
one fails the handshake itself. Revocation is OpenSSL's to check where CRLs are given; between operators it is looked at
after the handshake, with the white list, by `TrustSpace.authorise`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from trustspace import pem
from trustspace.paths import Anchors

TLS12_SUITES = (
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-RSA-AES128-SHA256",
)
"""0xC030, 0xC02F, 0xC028, 0xC027 (ECO.1.1.3), in OpenSSL's names."""

Chain = Path | Sequence[x509.Certificate]
Key = Path | PrivateKeyTypes


def server_context(
    chain: Chain,
    key: Key,
    *,
    client_anchors: Anchors | None = None,
    client: Literal["none", "optional", "required"] = "none",
) -> ssl.SSLContext:
    """A server's context. `chain` (leaf first) and `key` are PEM files or objects.

    `client` says whether a client certificate is asked for; `client_anchors` are then needed (ValueError without).
    Raises pem.UnreadableFile or ssl.SSLError for a certificate or key that cannot be used.
    """
    context = _base(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _load_own(context, chain, key)
    if client != "none":
        if client_anchors is None:
            raise ValueError("client certificates need anchors")
        _load_anchors(context, client_anchors)
        context.verify_mode = ssl.CERT_REQUIRED if client == "required" else ssl.CERT_OPTIONAL
    return context


def client_context(
    chain: Chain | None,
    key: Key | None,
    anchors: Anchors,
    *,
    check_hostname: bool,
    crls: Sequence[x509.CertificateRevocationList] | None = None,
) -> ssl.SSLContext:
    """A client's context; the server's certificate must chain to `anchors`.

    `chain` and `key` are the client's own, None to present nothing. Between operators `check_hostname` is False: the
    list ties no host name to a domain, the full certificate name decides (mssante.md §2), through `authorise`. With
    `crls`, the handshake fails unless they show every certificate of the path, root included, not to be revoked.
    """
    context = _base(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    # A common name is not a host name (RFC 9525 §2): only alternative names count.
    context.hostname_checks_common_name = False
    context.verify_mode = ssl.CERT_REQUIRED
    _load_anchors(context, anchors)
    if crls is not None:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
        if crls:
            with _in_memory(b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)) as path:
                context.load_verify_locations(cafile=path)
    if chain is not None and key is not None:
        _load_own(context, chain, key)
    return context


def _base(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(TLS12_SUITES))
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_anchors(context: ssl.SSLContext, anchors: Anchors) -> None:
    # Without X509_V_FLAG_PARTIAL_CHAIN an intermediate in the store only helps to build a path; it ends at a root.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem.chain_to_pem((*anchors.roots, *anchors.intermediates)).decode("ascii"))


def _load_own(context: ssl.SSLContext, chain: Chain, key: Key) -> None:
    with ExitStack() as stack:
        chain_path = chain if isinstance(chain, Path) else stack.enter_context(_in_memory(pem.chain_to_pem(chain)))
        key_path = key if isinstance(key, Path) else stack.enter_context(_in_memory(pem.key_to_pem(key)))
        try:
            context.load_cert_chain(chain_path, key_path)
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                raise
            raise pem.UnreadableFile(f"{chain_path.name} or {key_path.name}: {error.strerror}") from error


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """A path to bytes that are on no disk: OpenSSL, through Python, loads keys from paths only."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
