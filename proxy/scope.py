"""Where a send code counts: which senders may show it, from which networks, for which recipients' domains.

Invariants: an empty list limits nothing, except that without senders a code is its own mailbox's alone; what cannot be
compared (no known peer address) is outside the scope.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_ADDRESS = re.compile(r"(?:\*|[!-)+-?A-~]{1,64})@" + _DOMAIN.pattern)
_MOST = 100


class BadScope(ValueError):
    """A scope that cannot be used; the text says which part and why, in French then English."""


@dataclass(frozen=True, slots=True)
class Scope:
    """`senders`: addresses, or `*@domain`; `networks`: CIDR, IPv4 or IPv6; `domains`: of recipients. All lower case."""

    senders: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    @classmethod
    def of(cls, senders: Sequence[str] = (), networks: Sequence[str] = (), domains: Sequence[str] = ()) -> Scope:
        """A scope from what a person wrote. Raises BadScope."""
        if max(len(senders), len(networks), len(domains)) > _MOST:
            raise BadScope(f"{_MOST} valeurs au plus / at most {_MOST} values")
        return cls(
            tuple(_checked(one, _ADDRESS, "adresse ou *@domaine / address or *@domain") for one in senders),
            tuple(_network(one) for one in networks),
            tuple(_checked(one, _DOMAIN, "domaine / domain") for one in domains),
        )

    @classmethod
    def from_json(cls, text: str) -> Scope:
        """The scope kept by the store; "" is no limit. Raises BadScope: an unreadable scope allows nothing."""
        if not text:
            return cls()
        try:
            read = json.loads(text)
            return cls.of(read.get("senders", ()), read.get("networks", ()), read.get("domains", ()))
        except (ValueError, AttributeError, TypeError) as error:
            raise BadScope("portée illisible / unreadable scope") from error

    def to_json(self) -> str:
        """For the store."""
        kept = {"senders": self.senders, "networks": self.networks, "domains": self.domains}
        return json.dumps({name: values for name, values in kept.items() if values}) if any(kept.values()) else ""

    def objection(self, *, owner: str, sender: str, peer: str, recipients: Sequence[str]) -> str:
        """Why a use is outside the scope, as a fixed word (`sender`, `network`, `recipient`), or "" when it is inside.

        `owner` and `sender` are addresses, `peer` the address the message came from ("" when unknown)."""
        domain = sender.rpartition("@")[2]
        if sender != owner and sender not in self.senders and f"*@{domain}" not in self.senders:
            return "sender"
        if self.senders and sender == owner and not {sender, f"*@{domain}"} & set(self.senders):
            return "sender"
        if self.networks and not _inside(peer, self.networks):
            return "network"
        if self.domains and any(one.rpartition("@")[2].lower() not in self.domains for one in recipients):
            return "recipient"
        return ""


def _checked(value: str, form: re.Pattern[str], wanted: str) -> str:
    name = str(value).strip().lower()
    if not form.fullmatch(name):
        raise BadScope(f"« {value} » : {wanted}")
    return name


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(str(value).strip(), strict=False))
    except ValueError:
        raise BadScope(f"« {value} » : réseau attendu, comme 192.0.2.0/24 / expected a network") from None


def _inside(peer: str, networks: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(one) for one in networks)
