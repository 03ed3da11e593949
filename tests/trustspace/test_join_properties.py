"""The join under every writing of the same thing: case, spaces, order, escapes, final dots, A-labels, duplicates."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trustspace.conftest import AT
from trustspace import ListedDomain, WhiteList, may_speak
from trustspace.dn import DistinguishedName, from_x509, parse
from trustspace.issuing import CaPlan, new_authority
from trustspace.whitelist import names_of_entries

_SIGNER = new_authority(CaPlan("S", "TEST SIGNER", None), None, AT, 2048).certificate
_TYPES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
}
_TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "Nd", "Zs", "P", "S")) | st.sampled_from(' ,+"\\<>;=#é'),
    min_size=1,
    max_size=12,
).filter(lambda value: bool(value.strip()))
_NAME = st.lists(st.tuples(st.sampled_from(sorted(_TYPES)), _TEXT), min_size=2, max_size=5)
_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda one: one[2:4] != "--")
_DOMAIN = st.lists(_LABEL, min_size=2, max_size=4).map(".".join)


def x509_name(parts: list[tuple[str, str]]) -> x509.Name:
    return x509.Name([x509.NameAttribute(_TYPES[kind], value) for kind, value in parts])


def listed(*entries: tuple[str, str]) -> WhiteList:
    """A list of (domain, DN text), through the code that reads real ones."""
    shown = tuple(ListedDomain(domain, dn) for domain, dn in entries)
    names = names_of_entries(shown)
    every: frozenset[DistinguishedName] = frozenset().union(*names.values())
    return WhiteList(datetime(2026, 1, 1, tzinfo=UTC), "0" * 64, _SIGNER, shown, (), names, every)


def rewritten(text: str, seed: random.Random) -> str:
    """The same DN written otherwise: letter case of types and values, spaces around separators."""
    swapped = "".join(
        c.upper() if seed.random() < 0.5 and len(c.upper()) == 1 and c.upper().lower() == c else c for c in text
    )
    out, escaped = "", False
    for c in swapped:
        plain = c == "," and not escaped
        out += " , " if plain and seed.random() < 0.5 else c
        escaped = c == "\\" and not escaped
    return out


@settings(max_examples=200)
@given(_NAME, st.randoms(use_true_random=False))
def test_the_same_name_written_otherwise_is_the_same_name(parts: list[tuple[str, str]], seed: random.Random) -> None:
    name = x509_name(parts)
    text = name.rfc4514_string()
    assert parse(text) == from_x509(name)
    assert may_speak(listed(("d.example", rewritten(text, seed))), from_x509(name), "d.example").allowed


@settings(max_examples=200)
@given(_NAME, st.randoms(use_true_random=False))
def test_the_order_of_rdns_is_part_of_the_name(parts: list[tuple[str, str]], seed: random.Random) -> None:
    """mssante.md §1.3: an ordered list; a permutation is the same name only when it is the same sequence."""
    shuffled = seed.sample(parts, len(parts))
    one, other = from_x509(x509_name(parts)), from_x509(x509_name(shuffled))
    expected = "LISTED" if one == other else "CERTIFICATE_NOT_LISTED"
    decision = may_speak(listed(("d.example", x509_name(parts).rfc4514_string())), other, "d.example")
    assert decision.rule == expected
    prepared = [from_x509(x509_name([part])).rdns for part in parts]
    if [from_x509(x509_name([part])).rdns for part in shuffled] != prepared:
        assert not decision.allowed


@settings(max_examples=200)
@given(_DOMAIN, _LABEL, st.randoms(use_true_random=False))
def test_domains(domain: str, label: str, seed: random.Random) -> None:
    dn = "CN=a,C=FR"
    one = listed((domain, dn), (domain.upper(), dn), (f"{domain}.", dn))
    assert list(one.names) == [domain], "one domain, however it is written"
    cased = "".join(c.upper() if seed.random() < 0.5 else c for c in domain)
    for same in (cased, f"{cased}.", f" {domain} "):
        assert may_speak(one, parse(dn), same).allowed
    for other in (f"{label}.{domain}", domain.partition(".")[2], f"{domain}x", f"{domain}.{label}"):
        assert not may_speak(one, parse(dn), other).allowed, "neither sub-domain, nor parent, nor neighbour"


def test_unicode_and_a_labels_are_one_domain() -> None:
    for written in (
        "hôpital.mssante.fr",
        "HÔPITAL.mssante.fr",
        "xn--hpital-ixa.mssante.fr",
        "ho\u0302pital.mssante.fr",
    ):
        one = listed((written, "CN=a,C=FR"))
        for asked in ("hôpital.mssante.fr", "XN--HPITAL-IXA.mssante.fr"):
            assert may_speak(one, parse("CN=a,C=FR"), asked).allowed, (written, asked)
    assert not may_speak(one, parse("CN=a,C=FR"), "hopital.mssante.fr").allowed


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["a.fr", "b.fr", "c.fr"]), st.sampled_from("xyz")), min_size=1, max_size=12))
def test_both_directions_agree(pairs: list[tuple[str, str]]) -> None:
    """domain -> names and name -> domains are one relation; duplicates and order change nothing."""
    one = listed(*((domain, f"CN={cn},C=FR") for domain, cn in pairs))
    for domain in ("a.fr", "b.fr", "c.fr"):
        for cn in "xyz":
            name = parse(f"CN={cn},C=FR")
            expected = (domain, cn) in pairs
            assert may_speak(one, name, domain).allowed is expected
            assert (domain in one.domains_of(name)) is expected
