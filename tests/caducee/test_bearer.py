"""Login by access token: a practice provider over real TLS, and what its tokens may and may not open."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from caducee import smtp_parts
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.sections import BearerSection
from caducee.settings import Settings
from caducee.wiring import bearer_login
from imap import ImapServer
from mailstore import Account, MailboxKind, Store
from mailstore.model import SeveralMailboxes
from tests.imap.support import make_certificate
from trustspace import PracticeAuthority

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ALICE = "alice@medecin.mssante.fr"
RPPS = "810002909371"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def published(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, key_id: str, use: str = "sig") -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": use}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": use}


@dataclass
class Provider:
    url: str = ""
    ca_file: Path = Path()
    body: bytes = json.dumps({"keys": [published(KEY, "one"), published(CURVE, "curve")]}).encode()
    requests: list[str] = field(default_factory=list)

    def token(self, key: Any = KEY, *, key_id: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
        ends = int((NOW + timedelta(minutes=4)).timestamp())
        content = {"iss": self.url, "exp": ends, "azp": "logiciel", "SubjectNameID": RPPS, **claims}
        return jwt.encode(
            {name: value for name, value in content.items() if value is not None},
            key,
            algorithm=algorithm,
            headers={"kid": key_id},
        )


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(provider.body)

        def log_message(self, *_: object) -> None: ...

    authority = PracticeAuthority.create(tmp_path / "pki", at=datetime.now(UTC))
    issued = authority.issue_server(
        "localhost", "Fournisseur", "1990000010", "Rhône (69)", ips=["127.0.0.1"], at=datetime.now(UTC)
    )
    chain, key = issued.write(tmp_path, "provider")
    anchors = b"".join(path.read_bytes() for path in sorted((tmp_path / "pki/anchors").iterdir()))
    provider.ca_file = tmp_path / "ca.pem"
    provider.ca_file.write_bytes(anchors)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    provider.url = f"https://127.0.0.1:{server.server_port}/auth/realms/exercice"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Desk:
    store: Store
    folder: OperatorFolder
    provider: Provider

    def login(self, **section: Any) -> Any:
        bearer = BearerSection(issuer=self.provider.url, ca_file=str(self.provider.ca_file), **section)
        login = bearer_login(self.folder, Settings(bearer=bearer), self.store)
        assert login is not None
        return login


@pytest.fixture
def desk(tmp_path: Path, provider: Provider) -> Iterator[Desk]:
    store = Store.create(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "blobs", bytes(32))
    store.add_account(ALICE, MailboxKind.PER, display_name="Alice", national_id=RPPS, at=NOW)
    store.add_account("bruno@medecin.mssante.fr", MailboxKind.PER, display_name="B", national_id="810002909372", at=NOW)
    yield Desk(store, OperatorFolder(tmp_path), provider)
    store.close()


def address(account: Account | None) -> str | None:
    return account.address if account else None


def test_a_token_opens_its_owners_mailbox_and_no_other(desk: Desk) -> None:
    login, token = desk.login(), desk.provider.token()
    assert address(login(ALICE, token, NOW)) == ALICE
    assert login("bruno@medecin.mssante.fr", token, NOW) is None
    assert login("personne@medecin.mssante.fr", token, NOW) is None
    assert desk.provider.requests == ["/auth/realms/exercice/protocol/openid-connect/certs"]


def test_an_elliptic_curve_signature_and_the_second_claim_count(desk: Desk) -> None:
    token = desk.provider.token(CURVE, key_id="curve", algorithm="ES256", SubjectNameID=None, preferred_username=RPPS)
    assert address(desk.login()(ALICE, token, NOW)) == ALICE


def test_without_an_address_the_token_opens_the_one_mailbox_of_its_owner(desk: Desk) -> None:
    login, provider = desk.login(), desk.provider
    assert address(login("", provider.token(), NOW)) == ALICE
    assert login("", provider.token(SubjectNameID="810009999999"), NOW) is None
    other = "alice.martin@hopital.mssante.fr"
    desk.store.add_account(other, MailboxKind.PER, display_name="Alice", national_id=RPPS, at=NOW)
    with pytest.raises(SeveralMailboxes, match="Plusieurs boîtes"):
        login("", provider.token(), NOW)
    assert address(login("", provider.token(email=other.upper()), NOW)) == other
    with pytest.raises(SeveralMailboxes):
        login("", provider.token(email="bruno@medecin.mssante.fr"), NOW)
    assert address(login(ALICE, provider.token(), NOW)) == ALICE
    desk.store.set_active(other, False)
    assert address(login("", provider.token(), NOW)) == ALICE


PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("why", "arguments"),
    [
        ("signed by another key", {"key": OTHER}),
        ("unknown key", {"key_id": "two"}),
        ("symmetric", {"key": b"x" * 64, "algorithm": "HS256"}),
        ("not signed", {"key": None, "algorithm": "none"}),
        ("another issuer", {"iss": "https://elsewhere.example"}),
        ("expired", {"exp": int((NOW - timedelta(minutes=2)).timestamp())}),
        ("no end", {"exp": None}),
        ("an end that is no number", {"exp": True}),
        ("an end beyond the calendar", {"exp": 10**30}),
        ("not yet valid", {"nbf": int((NOW + timedelta(minutes=5)).timestamp())}),
        ("nobody", {"SubjectNameID": None}),
        ("a list of people", {"SubjectNameID": [RPPS]}),
        ("another client", {"azp": "autre", "aud": ["autre"]}),
    ],
)
def test_a_token_is_refused(desk: Desk, why: str, arguments: dict[str, Any]) -> None:
    login = desk.login(audience=("logiciel",))
    assert address(login(ALICE, desk.provider.token(), NOW)) == ALICE
    assert login(ALICE, desk.provider.token(**arguments), NOW) is None, why


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "é" * 10, "e30.e30.e30", "x" * 100_000])
def test_what_is_no_token_is_refused(desk: Desk, token: str) -> None:
    assert desk.login()(ALICE, token, NOW) is None


def test_the_public_key_is_no_shared_secret(desk: Desk) -> None:
    """The old confusion of HMAC with RSA: a token 'signed' with the published key as a secret."""
    import base64
    import hashlib
    import hmac

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = (
        part({"alg": "HS256", "kid": "one"})
        + b"."
        + part({"iss": desk.provider.url, "exp": 2**33, "SubjectNameID": RPPS})
    )
    signature = base64.urlsafe_b64encode(hmac.new(PEM, body, hashlib.sha256).digest()).rstrip(b"=")
    assert desk.login()(ALICE, (body + b"." + signature).decode(), NOW) is None


def test_an_encryption_key_signs_nothing(desk: Desk) -> None:
    desk.provider.body = json.dumps({"keys": [published(KEY, "one", use="enc")]}).encode()
    assert desk.login()(ALICE, desk.provider.token(), NOW) is None


def test_a_new_key_is_fetched_but_not_at_every_token(desk: Desk) -> None:
    login, provider = desk.login(), desk.provider
    assert login(ALICE, provider.token(), NOW)
    provider.body = json.dumps({"keys": [published(OTHER, "two")]}).encode()
    for _ in range(5):
        assert login(ALICE, provider.token(OTHER, key_id="two"), NOW) is None
    assert len(provider.requests) == 1
    later = NOW + timedelta(seconds=31)
    assert login(ALICE, provider.token(OTHER, key_id="two"), later)
    assert login(ALICE, provider.token(), later) is None, "a withdrawn key no longer counts"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"keys": 3}', b'{"keys": []}', b" " * 1_000_000])
def test_a_provider_that_answers_badly_keeps_the_good_keys_for_a_day(desk: Desk, body: bytes) -> None:
    login, provider = desk.login(), desk.provider
    assert login(ALICE, provider.token(), NOW)
    provider.body = body
    later = NOW + timedelta(hours=23)
    assert login(ALICE, provider.token(exp=int((later + timedelta(minutes=1)).timestamp())), later)
    after = NOW + timedelta(hours=25)
    with pytest.raises(Exception, match="injoignable"):
        login(ALICE, provider.token(exp=int((after + timedelta(minutes=1)).timestamp())), after)


def test_settings_are_checked(desk: Desk) -> None:
    assert bearer_login(desk.folder, Settings(), desk.store) is None
    with pytest.raises(UsageError, match=r"bearer\.keys_url"):
        desk.login(keys_url="http://127.0.0.1/keys")


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
async def test_a_mail_program_reads_its_mail_with_a_token(desk: Desk, tmp_path: Path, mechanism: str) -> None:
    """curl asks the practice provider's token be taken by the IMAP server, wired as `caducee serve` does."""
    desk.store.append(desk.store.accounts()[0].id, "INBOX", b"Subject: bilan\r\n\r\nx\r\n", (), NOW, NOW)
    make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = ImapServer(
        desk.store,
        context,
        port_tls=0,
        tokens=desk.login(),
        tokens_away=smtp_parts.BEARER_AWAY,
        clock=lambda: NOW,
        sleep=lambda seconds: asyncio.sleep(0),
    )
    await server.start()

    async def curl(token: str) -> tuple[int | None, bytes]:
        command = ["curl", "-sS", "--cacert", str(tmp_path / "server.pem"), "--login-options", f"AUTH={mechanism}"]
        command += ["--user", ALICE, "--oauth2-bearer", token]
        command += [f"imaps://127.0.0.1:{server.ports[0]}/INBOX;UID=1"]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
        said, _ = await process.communicate()
        return process.returncode, said

    try:
        good, bad = desk.provider.token(), desk.provider.token(OTHER)
        assert await curl(good) == (0, b"Subject: bilan\r\n\r\nx\r\n")
        assert (await curl(bad))[0] == 67, "curl's code for a login refused"
        late = desk.provider.token(exp=int(NOW.timestamp()) - 3600)
        assert (await curl(late))[0] == 67
    finally:
        await server.stop()
