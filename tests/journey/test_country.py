"""The demonstration's claims, checked with tools that are not ours; what is refused, held or hidden along the way.

One country serves all the tests of this file: two operators, the directory and the record, as `caducee demo` runs them.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from email.utils import make_msgid
from io import BytesIO
from pathlib import Path

import pytest
import pytest_asyncio

import mime
from caducee.demo.country import Country, Place, cast
from caducee.demo.running import Running
from caducee.mailclient import Login, submit
from directory import people
from mailstore import Deposit, DepositState
from smtp import Answer
from tests.journey import support

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
GP = cast().gp.mail


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with Running(support.new_country(tmp_path_factory.mktemp("country") / "country")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def country(running: Running) -> Country:
    return running.country


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sent(country: Country) -> support.Sent:
    """A report that made the whole journey."""
    one = next(support.reports())
    assert (await support.hand_over(country, one)).startswith("250 ")
    await support.settled(country)
    return one


async def run(*command: str, given: bytes = b"", code: int = 0, **env: str) -> str:
    """A program's output, without stopping the loop; fails with what it said when it ends with another code."""

    def call() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, input=given, capture_output=True, timeout=60, check=False, env={**os.environ, **env}
        )

    done = await asyncio.to_thread(call)
    said = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
    assert done.returncode == code, said
    return said


async def caducee(*arguments: str, place: Place, code: int = 0) -> str:
    return await run(sys.executable, "-m", "caducee.cli", *arguments, "--dir", str(place.folder.root), code=code)


def anchors(country: Country, folder: Path) -> Path:
    bundle = folder / "roots.pem"
    bundle.write_bytes(b"".join(path.read_bytes() for path in (country.authority.folder / "anchors").glob("*.pem")))
    return bundle


# -- witnesses --------------------------------------------------------------------------------------------------------


async def test_mbsync_fetches_the_report_and_openssl_verifies_it(
    country: Country, sent: support.Sent, tmp_path: Path
) -> None:
    """A stock IMAP client, a stock CMS verifier; the documents inside are those the gateway sent, byte for byte."""
    listen = country.doctors.settings.listen
    roots = anchors(country, tmp_path)
    (tmp_path / "mail").mkdir()
    (tmp_path / "password").write_text(country.passwords[GP])
    (tmp_path / "mbsyncrc").write_text(
        f"""IMAPAccount gp
Host localhost
Port {listen.imaps}
User {GP}
PassCmd "cat {tmp_path / "password"}"
SSLType IMAPS
SSLVersions TLSv1.2 TLSv1.3
CertificateFile {roots}

IMAPStore far
Account gp

MaildirStore near
Path {tmp_path}/mail/
Inbox {tmp_path}/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
SyncState *
"""
    )
    await run("mbsync", "-c", str(tmp_path / "mbsyncrc"), "all")
    found = [file.read_bytes() for file in (tmp_path / "mail" / "INBOX" / "new").iterdir()]
    (message,) = [one.replace(b"\r\n", b"\n") for one in found if sent.message_id.encode() in one]
    clear = tmp_path / "clear"
    said = await run(
        "openssl",
        "cms",
        "-verify",
        "-CAfile",
        str(roots),
        "-purpose",
        "any",
        "-out",
        str(clear),
        given=message.replace(b"\n", b"\r\n"),
    )
    assert "Verification successful" in said
    parts = {
        part.filename: part.decoded(clear.read_bytes())
        for part in mime.parse(clear.read_bytes()).walk()
        if part.filename
    }
    assert parts["IHE_XDM.zip"] == sent.report.package
    assert sent.report.pdf in parts.values()


async def test_mutt_flags_the_report(country: Country, sent: support.Sent, tmp_path: Path) -> None:
    pattern = sent.message_id.strip("<>").replace(".", "[.]")
    (tmp_path / "muttrc").write_text(
        f"""set folder="imaps://localhost:{country.doctors.settings.listen.imaps}/"
set spoolfile="+INBOX"
set imap_user="{GP}"
set imap_pass="{country.passwords[GP]}"
set certificate_file="{anchors(country, tmp_path)}"
set ssl_force_tls=yes
set header_cache=""
set move=no
set tmpdir="{tmp_path}"
push "<search>~i {pattern}<enter><flag-message><sync-mailbox><quit>"
"""
    )
    # mutt wants a terminal: script(1) gives it one.
    command = f"mutt -n -F {tmp_path}/muttrc"
    await run("timeout", "30", "script", "-qec", command, "/dev/null", TERM="xterm", HOME=str(tmp_path))
    async with support.mailbox(country, country.doctors, GP) as inbox:
        (uid,) = await inbox.search(sent.message_id)
        assert "\\Flagged" in await inbox.flags(uid)


async def test_ldapsearch_shows_the_gp_and_her_certificate(country: Country) -> None:
    url = f"ldap://127.0.0.1:{country.national.settings.listen.ldap}"
    said = await run(
        "ldapsearch",
        "-x",
        "-LLL",
        "-H",
        url,
        "-b",
        "dc=mssante,dc=fr",
        f"(mail={GP})",
        "sn",
        "IdentifiantPP",
        "userCertificate",
    )
    assert f"IdentifiantPP: {cast().gp.rpps}" in said
    assert "userCertificate;binary::" in said
    password = country.national.folder.directory_password
    everyone = await run(
        "ldapsearch", "-x", "-LLL", "-H", url, "-D", "cn=operateur,dc=mssante,dc=fr", "-y", str(password),
        "-b", "dc=mssante,dc=fr", "(TypeBAL=PER)", "IdentifiantPP",
    )  # fmt: skip
    assert everyone.count("IdentifiantPP: ") >= 300


async def test_a_red_listed_mailbox_is_hidden_and_still_encrypted_to(country: Country) -> None:
    """An administrator hides a GP with ldapmodify: nobody sees her entry, and messages to her still leave encrypted."""
    listen, password = country.national.settings.listen, country.national.folder.directory_password
    url, hidden = f"ldap://127.0.0.1:{listen.ldap}", cast().gp_with_own_key.mail
    admin = ("-x", "-H", url, "-D", "cn=operateur,dc=mssante,dc=fr", "-y", str(password))
    change = "dn: mail={},ou=bal,dc=mssante,dc=fr\nchangetype: modify\nreplace: listeRouge\nlisteRouge: {}\n"
    await run("ldapmodify", *admin, given=change.format(hidden, "TRUE").encode())
    try:
        assert "mail:" not in await run(
            "ldapsearch", "-x", "-LLL", "-H", url, "-b", "dc=mssante,dc=fr", f"(mail={hidden})"
        )
        sent = next(support.reports())
        await support.hand_over(country, sent)
        async with support.mailbox(country, country.doctors, hidden) as inbox:
            received = await inbox.wait_for(sent.message_id, 20)
        assert mime.parse(received.content).media_type == "application/pkcs7-mime"
    finally:
        await run("ldapmodify", *admin, given=change.format(hidden, "FALSE").encode())


async def test_openssl_sees_mutual_tls_on_reception(country: Country, tmp_path: Path) -> None:
    where = f"127.0.0.1:{country.doctors.settings.listen.reception}"
    said = await run(
        "openssl", "s_client", "-connect", where, "-starttls", "smtp", "-CAfile", str(anchors(country, tmp_path)),
        "-verify_return_error", given=b"QUIT\r\n",
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in said
    assert "Requested Signature Algorithms" in said, "no client certificate was asked for"


async def test_autoconfig_is_served(country: Country, tmp_path: Path) -> None:
    listen = country.doctors.settings.listen
    url = f"https://127.0.0.1:{listen.web}/.well-known/autoconfig/mail/config-v1.1.xml"
    said = await run("curl", "-sS", "--cacert", str(anchors(country, tmp_path)), url)
    assert f"<port>{listen.imaps}</port>" in said


# -- what an engineer sees --------------------------------------------------------------------------------------------


async def test_trace_tells_the_journey_on_both_sides(country: Country, sent: support.Sent) -> None:
    left = json.loads(await caducee("trace", sent.message_id, "--json", place=country.hospital))
    names = [line["fait"] for line in left]
    assert [name for name in names if name.startswith("message.")] == ["message.signed", "message.encrypted"]
    assert {"submission.accepted", "outgoing.delivered", "deposit.deposited"} <= set(names)
    arrived = json.loads(await caducee("trace", sent.message_id, "--json", place=country.doctors))
    opened = {line["détail"].split(";")[0]: line["détail"] for line in arrived if line["fait"] == "message.opened"}
    assert set(opened) == {f"account={address}" for address in support.RECIPIENTS}
    assert "encrypted=yes; opened=yes; verdicts=valid" in opened[f"account={GP}"]


async def test_an_unknown_message_is_said_to_be_unknown(country: Country) -> None:
    said = await caducee("trace", "<rien@nulle.part>", place=country.hospital, code=2)
    assert said.startswith("caducee: <rien@nulle.part>: inconnu")


async def test_the_record_shows_the_document_and_traces_the_look(country: Country, sent: support.Sent) -> None:
    ins = sent.report.header.patient.ins
    (shown,) = json.loads(await caducee("dossier", "show", ins, "--json", place=country.national))
    assert (shown["document"], shown["statut"]) == (sent.report.header.unique_id, "Approved")
    assert (await caducee("dossier", "get", shown["document"], place=country.national)).encode() == sent.report.cda
    actions = [
        line["action"] for line in json.loads(await caducee("dossier", "trace", ins, "--json", place=country.national))
    ]
    assert {"show", "fetch"} <= set(actions)


async def test_queue_and_deposits_are_listed(country: Country, sent: support.Sent) -> None:
    assert "la file est vide" in await caducee("queue", place=country.hospital)
    listed = json.loads(await caducee("deposits", "list", "--state", "deposited", "--json", place=country.hospital))
    assert sent.report.header.unique_id in [line["document"] for line in listed]


async def test_the_small_client_sends_and_reads(country: Country, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(country.passwords[GP])
    said = await caducee(
        "send", "--login", GP, "--to", people.CARDIOLOGY, "--subject", "Avis", "--text", "Bonjour",
        "--password-file", str(password), place=country.doctors,
    )  # fmt: skip
    assert "250 2.0.0" in said
    await settled_at(country.doctors)
    password.write_text(country.passwords[people.CARDIOLOGY])
    inbox = json.loads(
        await caducee(
            "inbox", "--login", people.CARDIOLOGY, "--password-file", str(password), "--json", place=country.hospital
        )
    )
    assert inbox[0]["sujet"] == "Avis"


async def settled_at(place: Place) -> None:
    store = support.with_store(place)
    try:
        async with asyncio.timeout(support.PATIENCE):
            while store.queue():
                await asyncio.sleep(0.05)
    finally:
        store.close()


# -- what is refused --------------------------------------------------------------------------------------------------


async def as_gateway(country: Country, content: bytes, code: str | None) -> Answer:
    tls: ssl.SSLContext = support.gateway_tls(country)
    fields = [("X-Caducee-Code", code)] if code is not None else []
    answers = await submit(
        country.hospital.settings, tls, Login(people.GATEWAY), [GP], mime.prepend_fields(content, fields)
    )
    return answers[GP]


@pytest_asyncio.fixture(loop_scope="module")
async def wrong_codes(country: Country) -> AsyncIterator[None]:
    """Around a test that shows wrong codes: they slow each other down, and five close the gateway to the next tests."""
    yield
    assert "oubliés" in await caducee("proxy", "code", "reopen", people.GATEWAY, place=country.hospital)


@pytest.mark.usefixtures("wrong_codes")
async def test_a_gateway_without_its_code_is_refused_and_nothing_is_kept(country: Country) -> None:
    for code in (
        None,
        "",
        "0000-00000-00000-00000-00000",
        country.send_code[:-1] + ("0" if country.send_code[-1] != "0" else "1"),
    ):
        sent = next(support.reports())
        answer = await as_gateway(country, sent.content, code)
        assert (answer.code, answer.enhanced) == (550, "5.7.8")
        names = [
            line["fait"]
            for line in json.loads(await caducee("trace", sent.message_id, "--json", place=country.hospital))
        ]
        assert sorted(names) == ["code.refused", "submission.refused"]
        assert await support.copies(country, sent.message_id) == [0, 0]


@pytest.mark.usefixtures("wrong_codes")
async def test_refusals_are_shown_with_their_reason(country: Country) -> None:
    await as_gateway(country, next(support.reports()).content, None)
    shown = json.loads(await caducee("refusals", "--last", "2", "--json", place=country.hospital))
    assert {line["fait"] for line in shown} == {"submission.refused", "code.refused"}
    assert any("5.7.8" in line["détail"] for line in shown)


@pytest.mark.usefixtures("wrong_codes")
async def test_a_lost_answer_is_given_again_though_the_code_is_used_up(country: Country) -> None:
    said = await caducee("proxy", "code", "issue", people.GATEWAY, "--max-uses", "1", place=country.hospital)
    code, sent = said.strip().splitlines()[-1], next(support.reports())
    first = await as_gateway(country, sent.content, code)
    assert first.ok
    assert await as_gateway(country, sent.content, code) == first
    assert (await as_gateway(country, next(support.reports()).content, code)).enhanced == "5.7.8"


@pytest.mark.usefixtures("wrong_codes")
async def test_a_revoked_code_no_longer_sends(country: Country) -> None:
    said = await caducee("proxy", "code", "issue", people.GATEWAY, place=country.hospital)
    code = said.strip().splitlines()[-1]
    assert (await as_gateway(country, next(support.reports()).content, code)).ok
    await caducee("proxy", "code", "revoke", code[:4], place=country.hospital)
    assert (await as_gateway(country, next(support.reports()).content, code)).enhanced == "5.7.8"


async def test_the_same_hand_over_twice_is_one_message(country: Country) -> None:
    sent = next(support.reports())
    first, second = [await support.hand_over(country, sent) for _ in range(2)]
    assert first == second
    await support.settled(country)
    assert await support.copies(country, sent.message_id) == [1, 1]


# -- documents that need attention ------------------------------------------------------------------------------------


def broken_zip(sent: support.Sent) -> bytes:
    return sent.report.package[: len(sent.report.package) // 2]


def wrong_hash(sent: support.Sent) -> bytes:
    """The package with another document than METADATA.XML describes."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(sent.report.package)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, content.replace(b"Compte rendu", b"Compte  rendu") if name.endswith("DOC00001.XML") else content
            )
    return out.getvalue()


def no_cda(_sent: support.Sent) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        new.writestr("IHE_XDM/SUBSET01/DOC00001.XML", b"<not-closed>")
        new.writestr("../../etc/passwd", b"x")
    return out.getvalue()


@pytest.mark.parametrize("spoil", [broken_zip, wrong_hash, no_cda], ids=lambda spoil: spoil.__name__)
async def test_a_bad_document_is_held_and_its_message_delivered(country: Country, spoil: object) -> None:
    sent = next(support.reports())
    assert callable(spoil)
    package: bytes = spoil(sent)
    body = mime.multipart(
        "mixed",
        [
            mime.leaf("text/plain", b"Ci-joint.\r\n", disposition=None),
            mime.leaf("application/zip", package, filename="ihe_xdm.ZIP"),
        ],
    )
    message_id = make_msgid(domain="passerelle.chu-exemple.fr")
    content = mime.message([("From", people.GATEWAY), ("To", GP), ("Message-ID", message_id)], body)
    known = {one.id for one in support.deposits(country)}
    assert (await as_gateway(country, content, country.send_code)).ok
    await support.settled(country)
    held: list[Deposit] = [one for one in support.deposits(country) if one.id not in known]
    assert [one.state for one in held] == [DepositState.NEEDS_ATTENTION]
    assert held[0].reason
    async with support.mailbox(country, country.doctors, GP) as inbox:
        received = await inbox.wait_for(message_id, 20)
    delivered = [
        part.decoded(received.content) for part in mime.parse(received.content).walk() if part.filename == "ihe_xdm.ZIP"
    ]
    assert delivered == [package]


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n--x\r\n\r\n",
        b"Content-Type: ???\r\nContent-Transfer-Encoding: base64\r\n\r\n=%=\r\n",
        b"\r\n",
    ],
    ids=["unended multipart", "nonsense header", "empty"],
)
async def test_a_malformed_message_is_delivered(country: Country, body: bytes) -> None:
    message_id = make_msgid(domain="passerelle.chu-exemple.fr")
    content = f"From: {people.GATEWAY}\r\nTo: {GP}\r\nMessage-ID: {message_id}\r\n".encode() + body
    assert (await as_gateway(country, content, country.send_code)).ok
    async with support.mailbox(country, country.doctors, GP) as inbox:
        received = await inbox.wait_for(message_id, 20)
    assert b"multipart/signed" in received.content


# -- what may never be found ------------------------------------------------------------------------------------------


async def test_no_clear_health_data_and_no_secret_on_disk(country: Country, sent: support.Sent) -> None:
    """Every file of the country, logs and databases included, after all that the tests above did."""
    await support.settled(country)
    header = sent.report.header
    canaries = {
        "the INS": header.patient.ins.encode(),
        "a sentence of the report": "bêtabloquant".encode(),
        "the greeting of the message": "Chère consœur".encode(),
        "the document type in the subject": b"XDM/1.0/DDM+",
        "the start of the PDF": sent.report.pdf[:200],
        "the send code": country.send_code.encode(),
        "the send code, normalised": country.send_code.replace("-", "").encode(),
        "a password": country.passwords[GP].encode(),
    }
    files = [path for path in country.root.rglob("*") if path.is_file() and path.stat().st_size < 64 * 1024 * 1024]
    assert len(files) > 30
    found = [(name, path.name) for path in files for name, canary in canaries.items() if canary in path.read_bytes()]
    assert found == []


async def test_secret_files_are_closed_to_others(country: Country) -> None:
    secret = [*country.root.rglob("*.key"), *country.root.rglob("*.password")]
    assert len(secret) > 8
    assert [path.name for path in secret if path.stat().st_mode & 0o077] == []
