"""Which certificates the lists of revocations published in the directory itself say are revoked.

Invariants: a list counts only if the certificate of its authority, published beside it, verifies its signature; a list that
is absent, unreadable or unverified says nothing (`trustspace` decides what a missing list means: it refuses). So this
never makes a revoked certificate good; it keeps it from being chosen when a newer one is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ldap
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from directory.entry import Attributes
from directory.errors import DirectoryError


@dataclass(frozen=True, slots=True)
class PublishedAuthority:
    """One entry under `ou=ac`: an authority and its lists, as published."""

    certificates: tuple[x509.Certificate, ...]
    lists: tuple[x509.CertificateRevocationList, ...]

    def attributes(self, name: str) -> Attributes:
        """As an entry named `cn=name`: RFC 4523 pkiCA."""
        return {
            "objectClass": [b"applicationProcess", b"pkiCA"],
            "cn": [name.encode()],
            "cACertificate;binary": [one.public_bytes(Encoding.DER) for one in self.certificates],
            **(
                {"certificateRevocationList;binary": [one.public_bytes(Encoding.DER) for one in self.lists]}
                if self.lists
                else {}
            ),
        }


def from_attributes(attributes: Attributes) -> PublishedAuthority:
    """The readable part of an entry under `ou=ac`."""
    values = {name.lower(): some for name, some in attributes.items()}
    certificates: list[x509.Certificate] = []
    lists: list[x509.CertificateRevocationList] = []
    for value in values.get("cacertificate;binary", []):
        with contextlib.suppress(ValueError):
            certificates.append(x509.load_der_x509_certificate(value))
    for value in values.get("certificaterevocationlist;binary", []):
        with contextlib.suppress(ValueError):
            lists.append(x509.load_der_x509_crl(value))
    return PublishedAuthority(tuple(certificates), tuple(lists))


class Revocations:
    """The verified lists of some authorities."""

    def __init__(self, authorities: Iterable[PublishedAuthority]) -> None:
        self._lists: dict[x509.Name, list[x509.CertificateRevocationList]] = {}
        for authority in authorities:
            for revoked in authority.lists:
                if any(_signed_by(revoked, issuer) for issuer in authority.certificates):
                    self._lists.setdefault(revoked.issuer, []).append(revoked)

    def revoked(self, certificate: x509.Certificate) -> bool:
        """Whether a verified list of its issuer names the certificate."""
        return any(
            one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
            for one in self._lists.get(certificate.issuer, [])
        )


def _signed_by(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if revoked.issuer != issuer.subject or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    try:
        return revoked.is_signature_valid(key)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def put(connection: Any, dn: str, attributes: Attributes) -> None:
    """Add the entry of an authority, or replace what it publishes. Raises DirectoryError."""
    try:
        try:
            connection.add_s(dn, list(attributes.items()))
        except ldap.ALREADY_EXISTS:
            names = ("cACertificate;binary", "certificateRevocationList;binary")
            connection.modify_s(dn, [(ldap.MOD_REPLACE, name, attributes.get(name)) for name in names])
    except ldap.LDAPError as error:
        raise DirectoryError(
            f"L'annuaire refuse une autorité ({type(error).__name__}) / the directory refuses an authority"
        ) from error
