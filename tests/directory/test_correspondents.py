"""Finding people as people type, through our client, through ldapsearch, and as address books ask (Thunderbird)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from directory import Directory, DirectoryError, Entry, MailboxKind, Slapd, TooManyEntries, entry_dn, synthetic_entries
from directory.correspondents import Closeness, correspondent_filter, typed_words
from directory.wording import within_one_letter, words
from tests.directory.helpers import PASSWORD, free_port, witness


def _doctor(given: str, surname: str, speciality: str, city: str, code: str) -> Entry:
    mail = f"{given}.{surname}@essai.mssante.fr".lower().encode("ascii", "ignore").decode().replace(" ", "-")
    return Entry(
        entry_dn(mail), mail, MailboxKind.PER, given, surname, "810999000010", "10",
        speciality=speciality, city=city, postal_code=code,
    )  # fmt: skip


HELENE = _doctor("Hélène", "VÉNÉRAUX", "SM04", "Lyon", "69003")
PAUL = _doctor("Paul", "ZANDONA", "SM38", "Saint-Étienne", "42000")
SERVICE = Entry(
    entry_dn("cardio@zephyr.mssante.fr"), "cardio@zephyr.mssante.fr", MailboxKind.ORG,
    organisation="HOPITAL ZÉPHYR", structure_id="1990000010", service="Cardiologie", city="Lyon",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    server = Slapd(tmp_path_factory.mktemp("gens") / "annuaire", ldap_port=free_port())
    server.initialise([*synthetic_entries(300, seed=9), HELENE, PAUL, SERVICE], PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def reader(served: Slapd) -> Iterator[Directory]:
    with closing(Directory(served.url)) as directory:
        yield directory


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("veneraux", HELENE),
        ("VÉNÉRAUX Hélène", HELENE),
        ("helene veneraux", HELENE),  # swapped
        ("Dr. Vénéraux", HELENE),
        ("vener hel", HELENE),  # beginnings
        ("veneraux lyon", HELENE),
        ("veneraux cardio", HELENE),
        ("veneraux cardiologue 69003", HELENE),
        ("zandona", PAUL),
        ("zadona", PAUL),  # missing
        ("zanddona", PAUL),  # in excess
        ("zandina", PAUL),  # replaced
        ("zadnona", PAUL),  # swapped letters
        ("zandina paul", PAUL),
        ("ophtalmo saint etienne", PAUL),
        ("zandona 42", PAUL),
        ("cardiologie zephyr", SERVICE),
        ("hopital zephir lyon", SERVICE),
    ],
)
def test_what_people_type_finds_whom_they_mean(reader: Directory, typed: str, wanted: Entry) -> None:
    assert reader.correspondents(typed)[0].mail == wanted.mail


def test_speciality_and_place(reader: Directory) -> None:
    found = reader.correspondents("cardio lyon")
    assert {HELENE.mail, SERVICE.mail} <= {one.mail for one in found}
    assert all(one.city == "Lyon" for one in found)


def test_whole_words_come_first(reader: Directory) -> None:
    ranked = [one.surname for one in reader.correspondents("martin", limit=200)]
    assert "MARTIN" in re.split("[- ]", ranked[0])
    assert reader.correspondents("xyzzyq") == []
    assert len(reader.correspondents("medecin", limit=5)) == 5


@pytest.mark.parametrize("nothing", ["", "   ", "a", "()*", "de la", "\0"])
def test_nothing_to_look_for_is_said(reader: Directory, nothing: str) -> None:
    with pytest.raises(DirectoryError, match="deux lettres"):
        reader.correspondents(nothing)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_nothing_typed_is_a_filter(reader: Directory, text: str) -> None:
    try:
        condition = correspondent_filter(text, Closeness.TYPOS)
        typed = typed_words(text)
    except DirectoryError:
        return
    assert all(word.isalnum() and word.isascii() for word in typed)
    assert condition.count("(") == condition.count(")")
    try:
        reader.correspondents(text)
    except TooManyEntries:
        return


@settings(max_examples=200, deadline=None)
@given(
    word=st.text("abcxyz019", min_size=4, max_size=9),
    place=st.integers(0, 9),
    letter=st.sampled_from("abyz09"),
    how=st.sampled_from(["missing", "excess", "replaced", "swapped"]),
)
def test_every_word_within_one_letter_is_asked_for(word: str, place: int, letter: str, how: str) -> None:
    start, end = word[:place], word[place:]
    letter = letter if any(one.isdigit() is letter.isdigit() for one in word) else word[0]
    other = {
        "missing": start + end[1:],
        "excess": start + letter + end,
        "replaced": start + letter + end[1:],
        "swapped": start + end[1:2] + end[:1] + end[2:],
    }[how]
    assert within_one_letter(word, other)
    if words(word) == (word,):
        asked = correspondent_filter(word, Closeness.TYPOS)
        assert other == word or f"(cleRecherche={other})" in asked


def test_a_long_question_is_bounded() -> None:
    condition = correspondent_filter(" ".join(letter * 16 for letter in "bcfghjkmnp"), Closeness.TYPOS)
    assert len(condition) < 262_144  # what slapd reads from a client that has not bound


def test_the_filter_is_for_any_client(served: Slapd) -> None:
    search = ("ldapsearch", "-x", "-LLL", "-H", served.url, "-b", served.base)
    shown = witness(*search, correspondent_filter("zadnona ophtalmo", Closeness.TYPOS), "mail").stdout
    assert f"mail: {PAUL.mail}" in shown


# What Thunderbird asks for (its LDAP attribute map) and how it searches: quick search of an address book (each word in
# each of these attributes), and completion of an address being typed.
THUNDERBIRD = (
    "cn", "commonname", "givenName", "sn", "surname", "mail", "mozillaNickname", "mozillaSecondEmail", "telephoneNumber",
    "homePhone", "mobile", "title", "ou", "department", "departmentnumber", "o", "company", "l", "postalCode", "street",
    "description", "notes", "labeledURI", "workurl", "homeurl", "c", "st", "objectClass",
)  # fmt: skip


def _quick_search(*typed: str) -> str:
    fields = (
        "cn",
        "givenName",
        "sn",
        "mozillaNickname",
        "mail",
        "mozillaSecondEmail",
        "o",
        "ou",
        "title",
        "workurl",
        "homeurl",
    )
    return (
        "(&(objectClass=*)" + "".join("(|" + "".join(f"({f}=*{word}*)" for f in fields) + ")" for word in typed) + ")"
    )


def _completion(first: str, rest: str = "") -> str:
    return "(|" + "".join(f"({field}={first}*{rest + '*' if rest else ''})" for field in ("cn", "mail", "sn")) + ")"


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (_quick_search("vener"), HELENE),
        (_quick_search("veneraux", "lyon"), HELENE),
        (_quick_search("Vénéraux"), HELENE),
        (_quick_search("cardio", "lyon"), HELENE),
        (_quick_search("zephyr", "cardio"), SERVICE),
        (_quick_search("zan"), PAUL),
        (_completion("vene"), HELENE),
        (_completion("veneraux", "hel"), HELENE),
        (_completion("Hélène", "VÉN"), HELENE),
        (_completion("cardio", "lyon"), HELENE),
        (_completion("ophtalmo", "saint"), PAUL),
    ],
)
def test_thunderbird_finds_and_shows(served: Slapd, condition: str, wanted: Entry) -> None:
    search = ("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-z", "100", "-H", served.url, "-b", served.base)
    done = witness(*search, condition, *THUNDERBIRD)
    assert done.returncode == 0, done.stderr
    (entry,) = [one for one in done.stdout.split("\n\n") if f"mail: {wanted.mail}" in one]
    named = [line.partition(":")[0] for line in entry.splitlines()]
    assert {"cn", "mail", "l"} <= set(named)
    assert ("ou" if wanted is SERVICE else "title") in named
    first = next(line for line in entry.splitlines() if line.startswith("cn:"))
    assert first == f"cn: {wanted.display_name}" or first.startswith("cn:: ")  # the shown name is the first one
