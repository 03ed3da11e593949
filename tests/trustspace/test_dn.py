"""Distinguished names: real notations are read, and only whole names are equal."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.trustspace.conftest import AT
from trustspace.dn import DnSyntaxError, from_x509, name_of, parse
from trustspace.practice import PracticeAuthority

REFERENCE = "CN=mss.exemple.fr,OU=1750000018,O=CENTRE HOSPITALIER,ST=Paris (75),C=FR"


@pytest.mark.parametrize(
    "same",
    [
        "CN=mss.exemple.fr, OU=1750000018, O=CENTRE HOSPITALIER, ST=Paris (75), C=FR",
        "cn=MSS.exemple.fr,ou=1750000018,o=Centre Hospitalier,s=PARIS (75),c=fr",
        'CN=mss.exemple.fr,OU=1750000018,O="CENTRE  HOSPITALIER",ST=Paris (75),C=FR',
        "CN=mss.exemple.fr,OU=1750000018,O=CENTRE\u00a0HOSPITALIER,ST=Paris (75),C=FR",
        "2.5.4.3=mss.exemple.fr,OID.2.5.4.11=1750000018,O=CENTRE HOSPITALIER,ST=Paris (75),C=FR",
    ],
)
def test_notations_of_one_name_are_equal(same: str) -> None:
    assert parse(same) == parse(REFERENCE)


@pytest.mark.parametrize(
    "different",
    [
        "CN=mss.exemple.fr,OU=1750000026,O=CENTRE HOSPITALIER,ST=Paris (75),C=FR",
        "CN=mss.exemple.fr,OU=1750000018,O=CENTRE HOSPITALIER,L=Paris (75),C=FR",
        "CN=mss.exemple.fr,OU=1750000018,O=CENTRE HOSPITALIER,C=FR",
        "C=FR,ST=Paris (75),O=CENTRE HOSPITALIER,OU=1750000018,CN=mss.exemple.fr",
        "CN=mss.exemple.fr+OU=1750000018,O=CENTRE HOSPITALIER,ST=Paris (75),C=FR",
        "CN=mss.exemple.fr,OU=1750000018,O=CENTREHOSPITALIER,ST=Paris (75),C=FR",
        "CN=mss.exemple.fr,CN=mss.exemple.fr,OU=1750000018,O=CENTRE HOSPITALIER,ST=Paris (75),C=FR",
    ],
)
def test_names_that_differ_anywhere_are_different(different: str) -> None:
    assert parse(different) != parse(REFERENCE)


def test_quotes_inside_a_value_are_literal() -> None:
    certificate_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'CRLCC "PAUL STRAUSS"')])
    assert parse('O=CRLCC "PAUL STRAUSS"') == from_x509(certificate_name)
    assert parse('O="PAUL" STRAUSS') == from_x509(
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, '"PAUL" STRAUSS')])
    )


def test_a_quoted_value_may_hold_separators() -> None:
    assert parse('O="A, B + C",C=FR') == parse(r"O=A\, B \+ C,C=FR")


@pytest.mark.parametrize(
    "bad",
    [
        *("", "CN", "CN=", "CN=a,,C=FR", "CN=a,", "XX=a", "CN=#0402", "CN=a\\", "CN=\\ff", "CN=a+CN=a", "=a", '="a"'),
        *("1=a", "2.5.4.03=a", "O=" + "x" * 3000, ",".join(["CN=a"] * 40)),
    ],
)
def test_what_is_not_a_name_is_refused(bad: str) -> None:
    with pytest.raises(DnSyntaxError):
        parse(bad)


def test_a_professional_shares_one_rdn(authority: PracticeAuthority) -> None:
    issued = authority.issue_professional(
        "899700366240", "DOC", "KIT", "Médecin", usage="sign", email="kit.doc@medecin.mssante.example", at=AT
    )
    assert name_of(issued.certificate) == parse("GN=Kit+SN=Doc+CN=899700366240,title=Médecin,C=FR")
    assert [len(rdn) for rdn in name_of(issued.certificate).rdns] == [1, 1, 3]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name = parse(text)
    except DnSyntaxError:
        return
    assert name.rdns


_VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn"]), max_size=15).map(
    lambda text: "x" + text + "y"
)


@given(st.lists(st.tuples(st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME]), _VALUES), min_size=1))
def test_what_cryptography_writes_reads_as_the_certificate(attributes: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    """ListedDomain.of writes names this way: the list and the certificate must then agree."""
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes][:20])
    text = name.rfc4514_string()
    if len(text) <= 2048:
        assert parse(text) == from_x509(name)
