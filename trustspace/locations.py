"""Where a certificate says that its issuer, its CRLs and its OCSP responder are (RFC 5280 §4.2.1.13, §4.2.2.1). Pure.

Invariants: only http and https addresses with a host come out, each once, a few at most; unreadable extensions name no
place. LDAP addresses are left aside: libldap bounds the time of an answer, not its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

MAX_ADDRESSES = 4
MAX_ADDRESS_LENGTH = 1024
# RFC 6761 §6.4: such names resolve nowhere. Practice certificates name them on purpose.
_NOWHERE = (".invalid",)


def crl_addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The full CRLs that cover a certificate."""
    return _distribution(certificate, x509.CRLDistributionPoints)


def delta_addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The delta CRLs of a certificate (freshestCRL)."""
    return _distribution(certificate, x509.FreshestCRL)


def ocsp_addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The OCSP responders of a certificate."""
    return _access(certificate, AuthorityInformationAccessOID.OCSP)


def issuer_addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """Where the issuer's own certificate is (caIssuers)."""
    return _access(certificate, AuthorityInformationAccessOID.CA_ISSUERS)


def host_of(address: str) -> str:
    """The lower-case host of an address, "" when it has none."""
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def hosts_named(certificates: Iterable[x509.Certificate]) -> frozenset[str]:
    """The hosts of every address that these certificates name."""
    finders = (crl_addresses, delta_addresses, ocsp_addresses, issuer_addresses)
    return frozenset(host_of(address) for one in certificates for find in finders for address in find(one))


def is_usable(address: str) -> bool:
    """True for an http or https address of a host that can exist."""
    try:
        parts = urlsplit(address)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return False
    plain = len(address) <= MAX_ADDRESS_LENGTH and address.isascii() and address.isprintable() and " " not in address
    return plain and parts.scheme in {"http", "https"} and bool(host) and not host.endswith(_NOWHERE)


def _distribution(
    certificate: x509.Certificate, kind: type[x509.CRLDistributionPoints] | type[x509.FreshestCRL]
) -> tuple[str, ...]:
    try:
        points = certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    # A point with reasons or another issuer is not a full list of the certificate's own issuer.
    return _uris(
        name for point in points if not point.reasons and not point.crl_issuer for name in point.full_name or ()
    )


def _access(certificate: x509.Certificate, method: x509.ObjectIdentifier) -> tuple[str, ...]:
    try:
        described = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return _uris(one.access_location for one in described if one.access_method == method)


def _uris(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    found = (name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
    return tuple(dict.fromkeys(uri for uri in found if is_usable(uri)))[:MAX_ADDRESSES]
