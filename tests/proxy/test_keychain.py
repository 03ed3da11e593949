"""The life of server-side keys: who may have which, what a certificate must be, replacement, two custodians, tokens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    load_der_public_key,
    pkcs12,
)

import smime
from mailstore import StoreError
from proxy import CustodyPolicy
from proxy.keychain import Keychain, KeyKind, KeyRefused
from proxy.keys import KeyRing
from proxy.tokens import Reference, TokenProcesses
from smime.errors import KeyUnavailable
from tests.proxy.conftest import ALICE, CLAIRE, GATEWAY, OURS, Desk
from tests.proxy.test_protection import good, letter, octets, open_as
from trustspace import Issued, PracticeAuthority, pem

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "246810"
SUBJECT = x509.Name.from_rfc4514_string("CN=Passerelle,OU=1990000010,O=CHU,C=FR")
BY = "anne"


def chain_for(
    desk: Desk, custody: CustodyPolicy = CustodyPolicy.OPERATOR, tokens: TokenProcesses | None = None
) -> Keychain:
    return Keychain(desk.store, lambda holder: custody, tokens)


def certify(desk: Desk, request: bytes, template: x509.Certificate) -> bytes:
    return certify_by(desk.authority, request, template)


def certify_by(practice: PracticeAuthority, request: bytes, template: x509.Certificate) -> bytes:
    """What the authority does with a request: the template's names and uses for the request's key."""
    authority = next(one for one in practice._authorities.values() if one.certificate.subject == template.issuer)
    asked = x509.load_pem_x509_csr(request)
    assert asked.is_signature_valid
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(asked.public_key())
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(authority.key, SHA256()).public_bytes(Encoding.PEM)


def names(desk: Desk, key_id: int) -> list[str]:
    with desk.store._db.read() as connection:
        rows = connection.exec_driver_sql("SELECT name, detail FROM audit ORDER BY id").all()
    return [name for name, detail in rows if f'"key_id": "{key_id}"' in detail]


def test_a_key_is_made_certified_and_replaces_the_former_one(desk: Desk) -> None:
    chain, template = chain_for(desk), desk.keys[ALICE]["sign"].certificate
    (former,) = [one for one in desk.store.key_records(ALICE) if one.usage == "sign"]
    made = chain.generate(ALICE, "sign", template.subject, at=desk.now, by=BY)
    asked = x509.load_pem_x509_csr(made.request)
    assert asked.subject == template.subject
    assert asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.RFC822Name
    ) == [ALICE]
    chain.install(made.key_id, certify(desk, made.request, template), at=desk.now, by=BY)
    held = KeyRing(desk.store).signer(desk.account(ALICE))
    assert held is not None and held.key_id == made.key_id
    assert chain.record(former.id).retired_at == desk.now
    protected = good(
        desk.protector().protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
    )
    (one,) = open_as(desk, CLAIRE, octets(protected.copies[0].content)).verifications
    assert one.addresses == (ALICE,)
    assert names(desk, made.key_id) == ["key.generated", "key.certified"]


def test_a_retired_key_still_opens_old_mail(desk: Desk) -> None:
    (record,) = [one for one in desk.store.key_records(ALICE) if one.usage == "encrypt"]
    raw = smime.encrypt_message(letter(ALICE), [desk.keys[ALICE]["encrypt"].certificate])
    chain_for(desk).retire(record.id, at=desk.now, by=BY, reason="renewed")
    opened = desk.protector().open(raw, recipient=desk.account(ALICE), sender=CLAIRE, at=desk.now)
    assert opened.clear is not None
    assert opened.events[0].detail["key_id"] == str(record.id)


def test_a_certificate_of_another_key_or_use_is_refused(desk: Desk) -> None:
    chain, template = chain_for(desk), desk.keys[ALICE]["sign"].certificate
    made = chain.generate(ALICE, "sign", template.subject, at=desk.now, by=BY, kind=KeyKind.RSA_3072)
    for wrong in (pem.chain_to_pem([template]), b"not a certificate"):
        with pytest.raises(KeyRefused):
            chain.install(made.key_id, wrong, at=desk.now, by=BY)
    tls = desk.authority.issue_organisation("X", "CHU", "1990000010", "Rhône (69)", usage="auth", at=desk.now)
    with pytest.raises(KeyRefused):
        chain.import_pkcs12(ALICE, "encrypt", sealed(tls), b"secret", at=desk.now, by=BY)


def sealed(issued: Issued, password: bytes = b"secret") -> bytes:
    return pkcs12.serialize_key_and_certificates(
        None,
        issued.key,
        issued.certificate,
        issued.chain[1:],
        BestAvailableEncryption(password),
    )


def test_a_pkcs12_is_imported_with_its_password_only(desk: Desk) -> None:
    chain, issued = chain_for(desk), desk.keys[CLAIRE]["encrypt"]
    for content, password in ((sealed(issued), b"wrong"), (b"junk", b"secret"), (bytes(300_000), b"secret")):
        with pytest.raises(KeyRefused):
            chain.import_pkcs12(GATEWAY, "encrypt", content, password, at=desk.now, by=BY)
    key_id = chain.import_pkcs12(GATEWAY, "encrypt", sealed(issued), b"secret", at=desk.now, by=BY)
    raw = smime.encrypt_message(letter(ALICE), [issued.certificate])
    assert desk.protector().open(raw, recipient=desk.account(GATEWAY), sender=ALICE, at=desk.now).clear is not None
    assert names(desk, key_id) == ["key.imported"]


def test_no_opening_key_is_taken_from_who_keeps_theirs(desk: Desk) -> None:
    chain, issued = chain_for(desk, CustodyPolicy.OWNER), desk.keys[ALICE]["encrypt"]
    for usage in ("encrypt", "smime"):
        with pytest.raises(KeyRefused):
            chain.generate(ALICE, usage, SUBJECT, at=desk.now, by=BY)
        with pytest.raises(KeyRefused):
            chain.import_pkcs12(ALICE, usage, sealed(issued), b"secret", at=desk.now, by=BY)
    chain.generate(ALICE, "sign", SUBJECT, at=desk.now, by=BY)
    with pytest.raises(KeyRefused):
        chain.generate(ALICE, "both", SUBJECT, at=desk.now, by=BY)


@pytest.mark.slow
def test_destruction_takes_two_custodians_with_their_passphrases(desk: Desk) -> None:
    chain = chain_for(desk)
    for name in ("Anne", "Bruno"):
        desk.store.add_custodian(name, f"la phrase de {name}", desk.now)
    key = desk.store.key_records(ALICE)[0].id

    def ask(name: str, phrase: str) -> None:
        chain.ask_destruction(key, custodian=name, passphrase=phrase, reason="départ", at=desk.now)

    with pytest.raises(StoreError):
        ask("Anne", "la phrase de Anne")  # still in force
    chain.retire(key, at=desk.now, by=BY, reason="départ")
    for name, phrase in (("Anne", "la phrase de Bruno"), ("Eve", "x")):
        with pytest.raises(KeyRefused):
            ask(name, phrase)
    ask("Anne", "la phrase de Anne")
    with pytest.raises(StoreError):
        chain.destroy(key, custodian="Anne", passphrase="la phrase de Anne", at=desk.now)
    with pytest.raises(KeyRefused):
        chain.destroy(key, custodian="Bruno", passphrase="la phrase de Anne", at=desk.now)
    chain.destroy(key, custodian="Bruno", passphrase="la phrase de Bruno", at=desk.now)
    assert chain.record(key).destroyed_by == "Bruno"
    expected = ["key.retired", *["key.destruction.refused"] * 2, "key.destruction_asked", "key.destruction.refused"]
    assert names(desk, key) == [*expected, "key.destroyed"]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A SoftHSM2 token of its own; its library is loaded by worker processes only."""
    if not SOFTHSM.exists() or not shutil.which("softhsm2-util"):
        pytest.skip("SoftHSM2 is not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", os.fspath(tmp_path / "softhsm2.conf"))
    command = ["softhsm2-util", "--init-token", "--free", "--label", "mss", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    yield "mss"


@pytest.fixture
def tokens(token: str) -> Iterator[TokenProcesses]:
    processes = TokenProcesses(os.fspath(SOFTHSM), PIN)
    yield processes
    processes.close()


@pytest.mark.slow
def test_a_key_made_in_a_token_signs_and_opens_for_its_mailbox(desk: Desk, tokens: TokenProcesses) -> None:
    chain = chain_for(desk, tokens=tokens)
    template = desk.keys[GATEWAY]["smime"].certificate
    made = chain.generate(GATEWAY, "smime", SUBJECT, at=desk.now, by=BY, token=Reference("mss", "passerelle"))
    certificate = certify(desk, made.request, template)
    with pytest.raises(KeyRefused):
        chain.install(made.key_id, pem.chain_to_pem([template]), at=desk.now, by=BY)
    chain.install(made.key_id, certificate, at=desk.now, by=BY)
    with pytest.raises(smime.UnsuitableCertificate):  # the label is taken: no key is ever made over another
        chain.generate(GATEWAY, "smime", SUBJECT, at=desk.now, by=BY, token=Reference("mss", "passerelle"))
    ring = KeyRing(desk.store, tokens)
    held = ring.signer(desk.account(GATEWAY))
    assert held is not None and held.key_id == made.key_id
    signed = smime.sign_message(letter(GATEWAY), held.signer, at=desk.now)
    (one,) = smime.verify_message(signed, at=desk.now, path=None)
    assert one.addresses == (GATEWAY,)
    raw = smime.encrypt_message(letter(ALICE), [held.signer.chain[0]])
    keys = ring.decryptors(GATEWAY)
    assert smime.open_message(raw, keys, at=desk.now, path=None).opened
    assert [key.key_id for key in keys if key.used] == [made.key_id]
    reference = desk.store.private_key(made.key_id)
    assert b"PRIVATE" not in reference and len(reference) < 200


@pytest.mark.slow
def test_a_key_that_is_there_already_is_tried_before_it_is_taken(desk: Desk, tokens: TokenProcesses) -> None:
    chain = chain_for(desk, tokens=tokens)
    tokens.generate_rsa(Reference("mss", "autre"), 2048)
    certificate = pem.chain_to_pem(desk.keys[GATEWAY]["smime"].chain)
    with pytest.raises(KeyRefused):
        chain.attach(GATEWAY, "smime", Reference("mss", "autre"), certificate, at=desk.now, by=BY)
    with pytest.raises(smime.SmimeError):
        chain.attach(GATEWAY, "smime", Reference("mss", "absente"), certificate, at=desk.now, by=BY)


@pytest.mark.slow
def test_without_its_token_a_key_defers_the_message(
    desk: Desk, tokens: TokenProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, template = chain_for(desk, tokens=tokens), desk.keys[ALICE]["sign"].certificate
    made = chain.generate(ALICE, "sign", template.subject, at=desk.now, by=BY, token=Reference("mss", "alice"))
    chain.install(made.key_id, certify(desk, made.request, template), at=desk.now, by=BY)
    tokens.close()
    monkeypatch.setenv("SOFTHSM2_CONF", "/nonexistent")
    protector = desk.protector(tokens=tokens)
    answer = protector.protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
    assert getattr(answer, "enhanced", "") == "4.7.5"


def trial(tokens: TokenProcesses, label: str = "essai") -> tuple[smime.Signer, x509.Certificate]:
    """A key in the token with a certificate of ours round its public part."""
    reference = Reference("mss", label)
    public = load_der_public_key(tokens.generate_rsa(reference, 2048))
    assert isinstance(public, rsa.RSAPublicKey)
    issuer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    start = datetime.now(UTC)
    builder = x509.CertificateBuilder(SUBJECT, SUBJECT, public, 1, start, start + timedelta(days=1))
    certificate = builder.sign(issuer, SHA256())
    return tokens.signer(reference.to_bytes(), (certificate,)), certificate


@pytest.mark.slow
def test_many_threads_on_one_token(token: str) -> None:
    """For two seconds; `bench/tokens.py --minutes 10` is the long run."""
    tokens = TokenProcesses(os.fspath(SOFTHSM), PIN, workers=2)
    signer, certificate = trial(tokens)
    deadline = time.monotonic() + 2.0
    raw = b"From: a@b.fr\r\nContent-Type: text/plain\r\n\r\nx\r\n"

    def work(_: int) -> int:
        done = 0
        while time.monotonic() < deadline:
            signed = smime.sign_message(raw, signer, at=certificate.not_valid_before_utc)
            (one,) = smime.verify_message(signed, at=certificate.not_valid_before_utc, path=None)
            assert one.signer_certificate == certificate
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 50
    tokens.close()


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_is_replaced(token: str) -> None:
    tokens = TokenProcesses(os.fspath(SOFTHSM), PIN)
    signer, _ = trial(tokens)
    digest = bytes(32)
    first = signer.sign(digest, smime.Mechanism.RSA_PKCS1_SHA256)
    process = tokens._workers[0].process
    running = process._running
    assert running is not None
    running.process.kill()
    running.process.wait()
    assert signer.sign(digest, smime.Mechanism.RSA_PKCS1_SHA256) == first
    process.seconds = 1.0
    os.kill(process.pid, signal.SIGSTOP)
    begin = time.monotonic()

    def refused(_: int) -> None:
        with pytest.raises(KeyUnavailable):
            signer.sign(digest, smime.Mechanism.RSA_PKCS1_SHA256)

    with ThreadPoolExecutor(4) as pool:  # who waited behind the one that hangs is told with it
        list(pool.map(refused, range(4)))
    assert time.monotonic() - begin < 5
    process.seconds = 20.0
    assert signer.sign(digest, smime.Mechanism.RSA_PKCS1_SHA256) == first
    tokens.close()
    assert threading.active_count() < 50


@pytest.mark.slow
def test_a_key_is_opened_again_in_another_process_and_when_forgotten(tokens: TokenProcesses) -> None:
    """Numbers of keys belong to one process: in the next one they are other keys'."""
    signers = [trial(tokens, label)[0] for label in ("un", "deux")]
    digest, mechanism = bytes(32), smime.Mechanism.RSA_PKCS1_SHA256
    expected = [signer.sign(digest, mechanism) for signer in signers]
    assert expected[0] != expected[1]
    tokens.close()
    assert [signer.sign(digest, mechanism) for signer in reversed(signers)] == expected[::-1]
    numbers = tokens._workers[0]._numbers
    for key in numbers:
        numbers[key] = b"\0\0\xff\xff"  # as if the process had opened so many others meanwhile
    assert [signer.sign(digest, mechanism) for signer in signers] == expected


@pytest.mark.slow
def test_a_refused_pin_is_not_tried_again_and_never_shown(token: str, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = TokenProcesses(os.fspath(SOFTHSM), "000000")
    for _ in range(5):
        with pytest.raises(KeyUnavailable) as error:
            tokens.generate_rsa(Reference("mss", "x"), 2048)
        assert "000000" not in str(error.value)
    assert "will not be tried again" in str(error.value)
    tokens.close()
    right = TokenProcesses(os.fspath(SOFTHSM), PIN)
    assert right.generate_rsa(Reference("mss", "x"), 2048)
    right.close()
    assert "000000" not in "".join(capfd.readouterr())


def test_what_is_kept_of_a_token_key_is_a_reference(desk: Desk) -> None:
    assert Reference.from_bytes(Reference("é", "clé").to_bytes()) == Reference("é", "clé")
    for broken in (b"", b"{}", b"[1]", b"\xff"):
        with pytest.raises(KeyUnavailable):
            Reference.from_bytes(broken)
    with pytest.raises(KeyRefused):
        chain_for(desk).generate(OURS, "smime", SUBJECT, at=desk.now, by=BY, token=Reference("mss", "x"))
