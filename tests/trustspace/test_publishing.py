"""Publishing: the same format as the national list, judged by xmllint, xmlsec1 and our own reader; never a worse one."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trustspace.conftest import AT, new_server, sample
from tests.trustspace.test_whitelist import anchors_of
from trustspace import Issued, ListedDomain, PracticeAuthority, load_white_list
from trustspace.listdiff import ChangeKind
from trustspace.publishing import (
    PUBLISHED_LIST,
    PUBLISHED_SCHEMA,
    NotPublishable,
    Publication,
    publish,
    read_entries,
    schema_errors,
)
from trustspace.signing import sign_white_list

MINUTE = timedelta(minutes=1)


def put(authority: PracticeAuthority, folder: Path, *entries: ListedDomain, after: timedelta = MINUTE) -> Publication:
    return publish(
        entries, authority.signer, folder, anchors=anchors_of(authority), signer_cn="alb.practice", at=AT + after
    )


def test_what_is_published_is_valid_for_everybody(authority: PracticeAuthority, server: Issued, tmp_path: Path) -> None:
    entries = [
        ListedDomain.of("a.mssante.example", server.certificate, description="CHU & Cie <é>"),
        ListedDomain("b.mssante.example", "CN=x,OU=1,O=L'É\\, B,ST=Paris (75),C=FR", "d", "c", "s"),
    ]
    done = put(authority, tmp_path / "web", *entries)
    assert done.changes is None and done.path == tmp_path / "web" / PUBLISHED_LIST
    xml = done.path.read_bytes()
    loaded = load_white_list(xml, anchors=anchors_of(authority), signer_cn="alb.practice")
    assert [one.domain for one in loaded.entries] == ["a.mssante.example", "b.mssante.example"]
    assert loaded.entries[0].description == "CHU & Cie <é>"
    lint = ["xmllint", "--noout", "--nonet", "--schema", str(tmp_path / "web" / PUBLISHED_SCHEMA), str(done.path)]
    assert subprocess.run(lint, capture_output=True, check=False).returncode == 0
    xmlsec = ["xmlsec1", "--verify", "--verification-gmt-time", "2026-03-02 09:30:00"]
    for option, name in (
        ("--trusted-pem", "anchors/TEST-ACR-EL"),
        ("--untrusted-pem", "intermediates/TEST-ACI-EL-ORG"),
    ):
        xmlsec += [option, str(authority.folder / f"{name}.pem")]
    assert subprocess.run([*xmlsec, str(done.path)], capture_output=True, check=False).returncode == 0


def test_the_real_list_is_valid_under_our_schema() -> None:
    xml = sample("whitelist/listeblanchemssante-2025-02-28.xml").read_bytes()
    assert schema_errors(xml) == []


def test_a_new_publication_tells_its_changes_and_must_be_later(
    authority: PracticeAuthority, server: Issued, tmp_path: Path
) -> None:
    first = ListedDomain.of("a.mssante.example", server.certificate)
    second = ListedDomain.of("b.mssante.example", server.certificate)
    put(authority, tmp_path, first)
    with pytest.raises(NotPublishable, match="not later"):
        put(authority, tmp_path, first, second)
    done = put(authority, tmp_path, second, after=2 * MINUTE)
    assert done.changes is not None
    assert [one.kind for one in done.changes] == [ChangeKind.DOMAIN_REMOVED, ChangeKind.DOMAIN_ADDED]


def test_what_readers_would_refuse_is_not_published(
    authority: PracticeAuthority, foreign: PracticeAuthority, server: Issued, tmp_path: Path
) -> None:
    good = ListedDomain.of("a.mssante.example", server.certificate)
    with pytest.raises(NotPublishable, match="no entry"):
        put(authority, tmp_path)
    with pytest.raises(NotPublishable, match="twice"):
        put(authority, tmp_path, good, ListedDomain.of("A.mssante.example.", server.certificate))
    with pytest.raises(NotPublishable, match="XML cannot hold"):
        put(authority, tmp_path, ListedDomain("a.mssante.example", "CN=a,C=FR", "\x00"))
    with pytest.raises(NotPublishable, match="maxLength"):
        put(authority, tmp_path, ListedDomain("a.mssante.example", "CN=a,C=FR", "x" * 300))
    with pytest.raises(NotPublishable, match="SIGNER_UNTRUSTED"):
        publish([good], foreign.signer, tmp_path, anchors=anchors_of(authority), signer_cn="alb.practice", at=AT)
    with pytest.raises(NotPublishable, match="SIGNER"):
        publish([good], server, tmp_path, anchors=anchors_of(authority), signer_cn="alb.practice", at=AT)
    assert not list(tmp_path.iterdir())


def test_entries_from_csv(authority: PracticeAuthority, tmp_path: Path) -> None:
    server = new_server(authority)
    server.write(tmp_path, "a")
    file = tmp_path / "entries.csv"
    file.write_text(
        "\ufeffdomain;operator;description;contact;support\n"
        "A.mssante.example;a.pem;CHU A;01;a@x\n"
        '"b.mssante.example";"CN=x,O=B,C=FR";;;\n',
        encoding="utf-8",
    )
    entries = read_entries(file)
    assert [(one.domain, one.operator_dn) for one in entries] == [
        ("a.mssante.example", server.certificate.subject.rfc4514_string()),
        ("b.mssante.example", "CN=x,O=B,C=FR"),
    ]
    file.write_text("domain,operator\nnot a domain,CN=a\nx.example,CN\ny.example,missing.pem\n")
    with pytest.raises(NotPublishable) as caught:
        read_entries(file)
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == [
        "entries.csv:2:",
        "entries.csv:3:",
        "entries.csv:4:",
    ]
    for content in (b"", b"domain\nx", b"\xff\xfe", b'domain,operator\n"x'):
        file.write_bytes(content)
        with pytest.raises(NotPublishable):
            read_entries(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<ListeDomaines>", b"<ListeDomaines><Domaine/>"),
        (b"<Nom>a.mssante.example</Nom>", b""),
        (b"<Nom>a.mssante.example</Nom>", b"<Nom/>"),
        (b"<Nom>a.mssante.example</Nom>", b"<Nom>a.mssante.example</Nom><Nom>b.mssante.example</Nom>"),
        (b"09:01:00Z</DateDeGeneration>", b"09:01:00+01:00</DateDeGeneration>"),
        (b"<ListeBlancheMSSante ", b'<ListeBlancheMSSante x="1" '),
    ],
)
def test_the_schema_refuses(authority: PracticeAuthority, server: Issued, old: bytes, new: bytes) -> None:
    entries = [ListedDomain.of("a.mssante.example", server.certificate)]
    xml = sign_white_list(entries, at=AT + MINUTE, key=authority.signer.key, certificate=authority.list_signer)
    assert schema_errors(xml) == [] and old in xml
    assert schema_errors(xml.replace(old, new, 1))
