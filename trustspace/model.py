"""Values that the rooms of the trust space exchange: entries of the white list, the list itself, decisions.

Invariants: every value is immutable; a decision has no truth value, so that `if decision:` is an error and not a
silent pass; domain names are kept in one canonical form (lower-case A-labels, no final dot).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

from cryptography import x509

from trustspace.dn import DistinguishedName

MAX_DOMAIN_LENGTH = 253
"""RFC 1035 §2.3.4, in A-label form without the final dot."""


class TrustSpaceError(Exception):
    """Root of the errors of this package. The text never contains a secret."""


def canonical_domain(domain: str) -> str:
    """The comparable form of a domain name: lower-case A-labels (IDNA 2008, UTS 46 mapping), no final dot.

    The published list has had upper-case names and is said to have had Unicode ones (mssante.md §1.3).
    Raises ValueError for what is not a domain name.
    """
    name = domain.strip().removesuffix(".")
    if name.isascii():
        canonical = name.lower()
    else:
        import idna

        try:
            canonical = idna.encode(name, uts46=True, transitional=False).decode("ascii").lower()
        except idna.IDNAError as error:
            raise ValueError("not a domain name") from error
    if not 0 < len(canonical) <= MAX_DOMAIN_LENGTH:
        raise ValueError("not a domain name")
    labels = canonical.split(".")
    if len(labels) < 2 or not all(_is_label(label) for label in labels):
        raise ValueError("not a domain name")
    return canonical


def _is_label(label: str) -> bool:
    letters = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and letters.isascii() and letters.isalnum() and label[0] != "-" and label[-1] != "-"


@dataclass(frozen=True, slots=True)
class ListedDomain:
    """One entry of the white list: this certificate name operates this domain (mssante.md §1.2).

    `operator_dn` is an RFC 4514 string, most specific name first; `updated` is aware UTC.
    """

    domain: str
    operator_dn: str
    description: str = ""
    contact: str = ""
    support: str = ""
    updated: datetime | None = None

    @classmethod
    def of(cls, domain: str, certificate: x509.Certificate, *, description: str = "") -> ListedDomain:
        """The entry that lets the holder of `certificate` operate `domain`."""
        return cls(domain, certificate.subject.rfc4514_string(), description)


@dataclass(frozen=True, slots=True)
class ListProblem:
    """An entry of an otherwise valid list that was set aside: its position (from 1) and why."""

    position: int
    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class WhiteList:
    """A verified white list. Build it with `whitelist.load_white_list` only.

    `digest` is the hexadecimal SHA-256 of the file; `generated` is the list's own date, aware UTC;
    `names` maps a canonical domain to the set of certificate names that may operate it.
    """

    generated: datetime
    digest: str
    signer: x509.Certificate
    entries: tuple[ListedDomain, ...]
    problems: tuple[ListProblem, ...]
    names: Mapping[str, frozenset[DistinguishedName]]
    every_name: frozenset[DistinguishedName] = field(repr=False)

    def is_listed(self, domain: str) -> bool:
        """True when at least one certificate may operate `domain`; False for what is not a domain name."""
        try:
            return canonical_domain(domain) in self.names
        except ValueError:
            return False

    def domains_of(self, name: DistinguishedName) -> frozenset[str]:
        """The canonical domains that this certificate name operates."""
        return frozenset(domain for domain, names in self.names.items() if name in names)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to "may this certificate speak for this domain?", with all that is needed to explain it later.

    `rule` is a stable machine name; `list_digest` says which list was in force ("" when none); `temporary` is True
    when the refusal may end by itself (a deferral, 4yz), False when it is final (5yz) or when allowed.
    """

    allowed: bool
    reason_fr: str
    reason_en: str
    rule: str
    list_digest: str
    temporary: bool = False

    def __bool__(self) -> NoReturn:
        raise TypeError("a Decision has no truth value: read .allowed")
