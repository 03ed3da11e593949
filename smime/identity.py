"""For whom a certificate speaks: e-mail addresses, national identifier, and the one decision "may it speak for this
address?".

Invariants: pure functions of the full certificate; what is ambiguous (several CNs, several OUs) names nobody; a
professional's identifier is read only from a certificate that names a person, a structure's only from one that does not.
Sources: RFC 8550 §3 (addresses); subjects of IGC-Santé certificates as seen in use (person: one RDN CN=<8+RPPS>+SN+GN;
organisation: OU=<structure identifier>).
"""

from __future__ import annotations

import re
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
_ADDRESS = re.compile(r"[!-?A-~]{1,64}@[!-?A-~]{1,255}\Z")
_PERSON = re.compile(r"8[0-9]{11}\Z|0[0-9]{9}\Z")
_STRUCTURE = re.compile(r"1[0-9]{9}\Z|1[0-9][AB][0-9]{7}\Z|2[0-9]{9}\Z|3[0-9]{14}\Z|4[0-9]{11,20}\Z")


@lru_cache(maxsize=1024)
def addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The e-mail addresses the certificate is for, in lower case: rfc822Names of the subjectAltName; only without any,
    the subject's emailAddress (RFC 8550 §3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.RFC822Name)
    except x509.ExtensionNotFound:
        found = []
    except _UNREADABLE:
        return ()
    if not found:
        found = _values(certificate, NameOID.EMAIL_ADDRESS)
    return tuple(dict.fromkeys(address.lower() for address in found if _ADDRESS.match(address)))


def is_person(certificate: x509.Certificate) -> bool:
    """True when the subject names a natural person: a surname is present."""
    return bool(_values(certificate, NameOID.SURNAME))


@lru_cache(maxsize=1024)
def national_id(certificate: x509.Certificate) -> str | None:
    """The national identifier of the holder. For a person the CN, `8`+RPPS (check digit verified) or `0`+ADELI; for an
    organisation the OU that is a structure identifier (`1`+FINESS, `2`+SIREN, `3`+SIRET, `4`+RPPS rank). None when there
    is none or more than one."""
    if is_person(certificate):
        common_names = _values(certificate, NameOID.COMMON_NAME)
        if len(common_names) != 1 or not _PERSON.match(common_names[0]):
            return None
        return common_names[0] if _luhn(common_names[0][1:]) else None
    units = [unit for unit in _values(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME) if _STRUCTURE.match(unit)]
    return units[0] if len(units) == 1 else None


def speaks_for(certificate: x509.Certificate, address: str, *, owner_id: str | None = None) -> bool:
    """May the holder of this certificate sign as `address`? Trust in the certificate is a separate question.

    `owner_id` is the national identifier of the mailbox's owner according to the directory, None when unknown.
    * Yes when the certificate names exactly this address (upper and lower case alike).
    * Yes when it names a person, and that person owns the mailbox, whatever addresses it names: a card names none, and
      one professional has several mailboxes.
    * Yes when it names a structure and no address at all, and that structure owns the mailbox; with addresses it speaks
      for these only, because one structure has many services.
    * No otherwise."""
    wanted = address.lower()
    named = addresses(certificate)
    if _ADDRESS.match(wanted) and wanted in named:
        return True
    holder = national_id(certificate)
    if holder is None or owner_id is None or holder != owner_id:
        return False
    return is_person(certificate) or not named


@lru_cache(maxsize=1024)
def may_sign_mail(certificate: x509.Certificate) -> bool:
    """Key usage digitalSignature or nonRepudiation, and e-mail protection where extended usage is limited (RFC 8550
    §4.4.2, §4.4.4). An unreadable extension means no."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not (usage.digital_signature or usage.content_commitment):
            return False
    except x509.ExtensionNotFound:
        pass
    except _UNREADABLE:
        return False
    return _mail_allowed(certificate)


@lru_cache(maxsize=1024)
def may_receive_keys(certificate: x509.Certificate) -> bool:
    """Key usage keyEncipherment (RSA) or keyAgreement (elliptic curves), and e-mail protection where extended usage is
    limited (RFC 8550 §4.4.2, RFC 5480 §3)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not (usage.key_encipherment if _is_rsa(certificate) else usage.key_agreement):
            return False
    except x509.ExtensionNotFound:
        pass
    except _UNREADABLE:
        return False
    return _mail_allowed(certificate)


def _is_rsa(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(certificate.public_key(), rsa.RSAPublicKey)
    except (ValueError, UnsupportedAlgorithm):
        return False


def _mail_allowed(certificate: x509.Certificate) -> bool:
    try:
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except _UNREADABLE:
        return False
    return bool({ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extended))


@lru_cache(maxsize=1024)
def is_authority(certificate: x509.Certificate) -> bool:
    """True for a CA certificate, which signs no mail; also when that cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except _UNREADABLE:
        return True


def _values(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    """Every value of an attribute in the subject, those of multi-valued RDNs included."""
    try:
        return [str(item.value) for rdn in certificate.subject.rdns for item in rdn if item.oid == oid]
    except _UNREADABLE:
        return []


def _luhn(digits: str) -> bool:
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
