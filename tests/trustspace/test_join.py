"""The join, as a truth table: list x domain x certificate name -> decision."""

from __future__ import annotations

import pytest

from trustspace import (
    Anchors,
    Issued,
    PracticeAuthority,
    WhiteList,
    load_white_list,
    may_speak,
    name_of,
)
from trustspace.dn import parse

OWN = "CN=mss.hopital-a.example,OU=1750000018,O=HOPITAL A,ST=Paris (75),C=FR"
NEIGHBOUR = "CN=mss.hopital-b.example,OU=1750000018,O=HOPITAL B,ST=Paris (75),C=FR"
SAME_CN = "CN=mss.hopital-a.example,OU=1750000018,O=HOPITAL Z,ST=Paris (75),C=FR"
STRANGER = "CN=mss.hopital-c.example,OU=1750000018,O=HOPITAL C,ST=Paris (75),C=FR"
DOMAIN = "hopital-a.mssante.example"

TABLE = [
    # list there, domain, name, allowed, temporary, rule
    (True, DOMAIN, OWN, True, False, "LISTED"),
    (True, "HOPITAL-A.Mssante.Example.", OWN, True, False, "LISTED"),
    (True, DOMAIN, NEIGHBOUR, False, False, "CERTIFICATE_NOT_LISTED_FOR_DOMAIN"),
    (True, DOMAIN, SAME_CN, False, False, "CERTIFICATE_NOT_LISTED"),
    (True, DOMAIN, STRANGER, False, False, "CERTIFICATE_NOT_LISTED"),
    (True, "hopital-z.mssante.example", OWN, False, False, "DOMAIN_NOT_LISTED"),
    (True, "sub.hopital-a.mssante.example", OWN, False, False, "DOMAIN_NOT_LISTED"),
    (True, "mssante.example", OWN, False, False, "DOMAIN_NOT_LISTED"),
    (True, "gmail.example", STRANGER, False, False, "DOMAIN_NOT_LISTED"),
    (True, "", OWN, False, False, "NOT_A_DOMAIN"),
    (True, "a b.example", OWN, False, False, "NOT_A_DOMAIN"),
    (True, f"{DOMAIN}\r\nRCPT", OWN, False, False, "NOT_A_DOMAIN"),
    (False, DOMAIN, OWN, False, True, "NO_WHITE_LIST"),
    (False, "", STRANGER, False, True, "NO_WHITE_LIST"),
]


@pytest.fixture(scope="module")
def loaded(authority: PracticeAuthority, white_list: bytes) -> WhiteList:
    anchors = Anchors(authority.anchors, authority.intermediates)
    return load_white_list(white_list, anchors=anchors, signer_cn="alb.practice")


@pytest.mark.parametrize(("there", "domain", "name", "allowed", "temporary", "rule"), TABLE)
def test_truth_table(
    loaded: WhiteList, there: bool, domain: str, name: str, allowed: bool, temporary: bool, rule: str
) -> None:
    decision = may_speak(loaded if there else None, parse(name), domain)
    assert (decision.allowed, decision.temporary, decision.rule) == (allowed, temporary, rule)
    assert decision.list_digest == (loaded.digest if there else "")
    assert decision.reason_fr and decision.reason_en
    assert "\r" not in decision.reason_en and "\n" not in decision.reason_fr


def test_the_name_of_the_certificate_is_the_name_of_the_list(loaded: WhiteList, server: Issued) -> None:
    assert may_speak(loaded, name_of(server.certificate), DOMAIN).allowed


def test_a_decision_has_no_truth_value(loaded: WhiteList) -> None:
    with pytest.raises(TypeError):
        bool(may_speak(loaded, parse(OWN), DOMAIN))
