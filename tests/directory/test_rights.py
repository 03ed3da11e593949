"""Roles: what anybody, the reader, the limited writer and administrators may do, by password and by certificate."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from directory import CARDIOLOGY, CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn, synthetic_entries
from directory.entry import BASE
from directory.rights import READER, WRITER, account_dn
from tests.directory.helpers import NOW, PASSWORD, Authority, certificate, free_port, witness

SECRETS = {READER: "lecteur d'exercice", WRITER: "redacteur d'exercice"}
CARDIO_DN = entry_dn(CARDIOLOGY)
CLAIRE_DN = entry_dn(CLAIRE_EXEMPLE.mail)
ADMINS = account_dn("administrateurs")


def _card(authority: Authority, folder: Path, number: str, *, serial: int = 0, title: bool = True) -> tuple[Path, Path]:
    """A card's certificate: one multi-valued RDN (cps-card.md §3.8), on the authority's key."""
    key = ec.generate_private_key(ec.SECP256R1())
    person = x509.RelativeDistinguishedName(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, number),
            x509.NameAttribute(NameOID.SURNAME, "DOC0073574"),
            x509.NameAttribute(NameOID.GIVEN_NAME, "KIT"),
        ]
    )
    role = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.TITLE, "Médecin")])
    country = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [country, role, person]
                if title
                else [x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, number)])]
            )
        )
        .issuer_name(authority.root.subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=30))
        .sign(authority.key, hashes.SHA256())
    )
    chain, secret = folder / f"{number[:12]}{title}.pem", folder / f"{number[:12]}{title}.key"
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


def _revoking(authority: Authority, *serials: int) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.root.subject)
        .last_update(NOW - timedelta(days=1))
        .next_update(NOW + timedelta(days=7))
    )
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - timedelta(hours=2)).build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def trust(authority: Authority) -> list[bytes]:
    """Authorities of cards and their list of revocations, as the trust space would give them now."""
    return [authority.ca_file.read_bytes(), _revoking(authority, 666)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, authority: Authority, trust: list[bytes]) -> Iterator[Slapd]:
    chain, key = authority.server()
    server = Slapd(
        tmp_path_factory.mktemp("roles") / "annuaire",
        ldap_port=free_port(),
        ldaps_port=free_port(),
        certificate=chain,
        key=key,
        domains=["chu-exemple.mssante.fr"],
        client_trust=lambda: (trust[0], trust[1]),
    )
    server.initialise(synthetic_entries(30, seed=1), PASSWORD, SECRETS)
    server.start()
    yield server
    server.stop()


def _as(served: Slapd, name: str) -> Directory:
    return Directory(served.url, bind_dn=account_dn(name), password=SECRETS[name])


def _ldap(served: Slapd, tool: str, who: str, *arguments: str, stdin: str = "") -> tuple[int, str]:
    bind = ["-D", account_dn(who), "-w", SECRETS[who]] if who else []
    done = witness(tool, "-x", "-H", served.url, *bind, *arguments, stdin=stdin)
    return done.returncode, done.stdout


def _change(dn: str, attribute: str, value: str) -> str:
    return f"dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"


def test_ldapwhoami_of_each_role(served: Slapd) -> None:
    for who in (READER, WRITER):
        assert _ldap(served, "ldapwhoami", who) == (0, f"dn:{account_dn(who)}\n")
    wrong = witness("ldapwhoami", "-x", "-H", served.url, "-D", account_dn(READER), "-w", "autre")
    assert wrong.returncode == 49


def test_an_account_without_a_password_cannot_bind(tmp_path: Path) -> None:
    server = Slapd(tmp_path / "a", ldap_port=free_port())
    server.initialise([], PASSWORD)
    server.start()
    try:
        for password in ("x", "*", "{CRYPT}*"):
            assert (
                witness("ldapwhoami", "-x", "-H", server.url, "-D", account_dn(READER), "-w", password).returncode == 49
            )
    finally:
        server.stop()


def test_the_reader_sees_the_red_list_and_writes_nothing(served: Slapd) -> None:
    hidden = replace(CLAIRE_EXEMPLE.entry(), red_list=True)
    with (
        closing(Directory(served.url, bind_dn=served.admin_dn, password=PASSWORD)) as admin,
        closing(_as(served, READER)) as reader,
    ):
        admin.publish(hidden)
        try:
            assert reader.by_address(CLAIRE_EXEMPLE.mail) == hidden
            assert Directory(served.url).by_address(CLAIRE_EXEMPLE.mail) is None
            with pytest.raises(DirectoryError):
                reader.publish(hidden)
            with pytest.raises(DirectoryError):
                reader.remove(CARDIOLOGY)
            assert _ldap(served, "ldapmodify", READER, stdin=_change(CARDIO_DN, "l", "Ailleurs"))[0] == 50
        finally:
            admin.publish(CLAIRE_EXEMPLE.entry())


def test_a_suspended_mailbox_is_hidden_and_not_encrypted_to(served: Slapd) -> None:
    seal = certificate()
    entry = replace(CLAIRE_EXEMPLE.entry(), certificates=(seal,), suspended=True)
    with (
        closing(Directory(served.url, bind_dn=served.admin_dn, password=PASSWORD)) as admin,
        closing(_as(served, READER)) as reader,
    ):
        admin.publish(replace(entry, suspended=False))
        assert reader.encryption_certificates(entry.mail, NOW) == [seal]
        admin.publish(entry)
        try:
            assert reader.encryption_certificates(entry.mail, NOW) == []
            assert Directory(served.url).by_address(entry.mail) is None
        finally:
            admin.publish(CLAIRE_EXEMPLE.entry())


def test_restricted_attributes_are_for_administrators(served: Slapd) -> None:
    with served.manager() as manager:
        manager.modify_s(CLAIRE_DN, [(2, "responsable", [b"Mme SECRET"])])
    for who in ("", READER, WRITER):
        assert "SECRET" not in _ldap(served, "ldapsearch", who, "-b", BASE, "(sn=EXEMPLE)", "*", "+")[1]
        assert "userPassword" not in _ldap(served, "ldapsearch", who, "-b", BASE, "(cn=lecteur)", "*", "+")[1]


def test_the_writer_writes_its_own_domains_only(served: Slapd) -> None:
    new = "neuf@chu-exemple.mssante.fr"
    own = f"dn: {entry_dn(new)}\nobjectClass: balMSSante\nmail: {new}\nTypeBAL: ORG\n"
    for text, code in (
        (_change(CARDIO_DN, "description", "Service"), 0),
        (_change(CLAIRE_DN, "l", "Ailleurs"), 50),
        (_change(account_dn(READER), "userPassword", "x"), 50),
        (_change(ADMINS, "member", account_dn(WRITER)), 50),
        (_change(BASE, "o", "x"), 50),
        (f"dn: {CLAIRE_DN}\nchangetype: delete\n", 50),
    ):
        assert _ldap(served, "ldapmodify", WRITER, stdin=text)[0] == code, text
    assert _ldap(served, "ldapadd", WRITER, stdin=own)[0] == 0
    other = own.replace("chu-exemple.mssante.fr", "chu-exemple.mssante.fr.pirate.fr")
    assert _ldap(served, "ldapadd", WRITER, stdin=other)[0] == 50
    assert _ldap(served, "ldapdelete", WRITER, entry_dn("neuf@chu-exemple.mssante.fr"))[0] == 0
    assert _ldap(served, "ldapdelete", WRITER, CLAIRE_DN)[0] == 50


def _external(
    served: Slapd, authority: Authority, chain: Path, key: Path, tool: str, *arguments: str, stdin: str = ""
) -> tuple[int, str]:
    environment = {
        "PATH": os.environ["PATH"],
        "LDAPTLS_CACERT": str(authority.ca_file),
        "LDAPTLS_CERT": str(chain),
        "LDAPTLS_KEY": str(key),
    }
    command = (tool, "-Y", "EXTERNAL", "-Q", "-H", served.ldaps_url or "", *arguments)
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=20, check=False, env=environment
    )
    return done.returncode, done.stdout


SUBJECT = "cn=899700735741+sn=DOC0073574+gn=KIT,title=Médecin,c=FR"


def test_a_card_is_an_administrator_when_an_account_carries_its_subject(
    served: Slapd, authority: Authority, tmp_path: Path
) -> None:
    chain, key = _card(authority, tmp_path, "899700735741")
    change = _change(CARDIO_DN, "description", "Par carte")
    stranger = _external(served, authority, chain, key, "ldapwhoami")
    assert stranger[0] == 0 and "899700735741" in stranger[1] and "ou=comptes" not in stranger[1]
    assert _external(served, authority, chain, key, "ldapmodify", stdin=change)[0] == 50
    account = account_dn("kit")
    with served.manager() as manager:
        manager.add_s(
            account,
            [("objectClass", [b"compteAnnuaire"]), ("cn", [b"kit"]), ("sujetCertificat", [SUBJECT.encode()])],
        )
        manager.modify_s(ADMINS, [(0, "member", [account.encode()])])
    assert _external(served, authority, chain, key, "ldapwhoami") == (0, f"dn:{account}\n")
    assert _external(served, authority, chain, key, "ldapmodify", stdin=change)[0] == 0
    # A name that holds what would be other parts of the subject, once unescaped.
    forged, forged_key = _card(
        authority, tmp_path, "899700735741+givenName=kit+sn=doc0073574,title=Médecin,c=FR", title=False
    )
    assert _external(served, authority, forged, forged_key, "ldapwhoami")[1] != f"dn:{account}\n"
    twin, twin_key = _card(authority, tmp_path, "899700735742")
    assert _external(served, authority, twin, twin_key, "ldapmodify", stdin=change)[0] == 50
    with served.manager() as manager:
        found = manager.search_s("cn=journal", 2, f"(&(reqType=modify)(reqDN={CARDIO_DN}))", ["reqAuthzID"])
    assert account.encode() in [one[1]["reqAuthzID"][0] for one in found]


def test_a_revoked_card_or_one_of_another_authority_does_not_bind(
    served: Slapd, authority: Authority, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    revoked = _card(authority, tmp_path, "899700735743", serial=666)
    assert _external(served, authority, *revoked, "ldapwhoami")[0] != 0
    other = Authority.create(tmp_path_factory.mktemp("autre"))
    assert _external(served, authority, *_card(other, tmp_path, "899700735744"), "ldapwhoami")[0] != 0


def test_new_revocations_count_without_a_restart(
    served: Slapd, authority: Authority, trust: list[bytes], tmp_path: Path
) -> None:
    card = _card(authority, tmp_path, "899700735745", serial=777)
    assert _external(served, authority, *card, "ldapwhoami")[0] == 0
    assert served.reload_trust() is False  # nothing new
    process, before = served.pid, trust[1]
    with closing(Directory(served.url)) as kept:
        kept.check()
        trust[1] = _revoking(authority, 666, 777)
        assert served.reload_trust() is True
        assert _external(served, authority, *card, "ldapwhoami")[0] != 0
        kept.check()
        trust[1] = before
        assert served.reload_trust() is True
        assert _external(served, authority, *card, "ldapwhoami")[0] == 0
    assert served.pid == process


def test_without_authorities_no_card_binds(
    served: Slapd, authority: Authority, trust: list[bytes], tmp_path: Path
) -> None:
    card, before = _card(authority, tmp_path, "899700735746"), list(trust)
    trust[:] = [b"", b""]
    assert served.reload_trust() is True
    try:
        assert _external(served, authority, *card, "ldapwhoami")[0] != 0
    finally:
        trust[:] = before
        assert served.reload_trust() is True
    assert _external(served, authority, *card, "ldapwhoami")[0] == 0


def test_the_configuration_is_for_this_machines_operator_only(served: Slapd) -> None:
    change = "dn: cn=config\nchangetype: modify\nreplace: olcLogLevel\nolcLogLevel: any\n"
    for who in (READER, WRITER):
        assert _ldap(served, "ldapmodify", who, stdin=change)[0] == 50
    with served.manager() as manager:
        assert manager.whoami_s().startswith("dn:gidNumber=")
        assert manager.search_s("cn=config", 0)
