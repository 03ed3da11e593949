"""Policies: inheritance with origins, and what each value does to a message."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import mime
from mailstore import MailboxKind
from proxy import BadPolicy, EncryptPolicy, ProxyPolicy, Refusal, SignPolicy, check_value, effective
from proxy.keys import KeyRing
from tests.proxy.conftest import ALICE, CLAIRE, GATEWAY, OURS, WITHOUT, Desk
from tests.proxy.test_protection import SECRET, good, issue, letter, octets, open_as, refused
from trustspace import pem

OPERATOR = ProxyPolicy(dict.fromkeys(MailboxKind, SignPolicy.ALWAYS), EncryptPolicy.WHEN_POSSIBLE)


def test_the_nearest_level_wins_and_says_where_it_is() -> None:
    asked = {ALICE: {"sign": "never"}, OURS: {"sign": "with_code", "encrypt": "required"}}
    found = effective(ALICE, MailboxKind.PER, OPERATOR, asked)
    assert (found.sign, found.encrypt) == (SignPolicy.NEVER, EncryptPolicy.REQUIRED)
    assert found.origins == {
        "sign": f"mailbox {ALICE}",
        "encrypt": f"domain {OURS}",
        "without_certificate": "operator proxy.without_certificate",
        "confirm": "operator proxy.confirm",
        "custody": "operator proxy.custody",
    }
    assert effective(GATEWAY, MailboxKind.APP, OPERATOR, {}).origins["sign"] == "operator proxy.sign_app"


def test_an_unknown_value_is_an_error_never_a_default() -> None:
    with pytest.raises(BadPolicy):
        effective(ALICE, MailboxKind.PER, OPERATOR, {ALICE: {"sign": "sometimes"}})
    for name, value in (("sign", "sometimes"), ("colour", "red")):
        with pytest.raises(BadPolicy):
            check_value(name, value)


def protect(desk: Desk, sender: str, recipients: list[str], subject: str = "Avis", **policy: str):  # type: ignore[no-untyped-def]
    for name, value in policy.items():
        desk.store.set_policy(sender, name, value, desk.now)
    raw = letter(sender).replace(b"Subject: Avis", b"Subject: " + subject.encode())
    return desk.protector().protect(raw, sender=desk.account(sender), recipients=recipients, at=desk.now)


def test_signing_never_leaves_the_message_unsigned(desk: Desk) -> None:
    protected = good(protect(desk, ALICE, [CLAIRE, WITHOUT], sign="never"))
    by_recipient = {name: octets(copy.content) for copy in protected.copies for name in copy.recipients}
    assert mime.parse(by_recipient[WITHOUT]).media_type == "text/plain"
    assert open_as(desk, CLAIRE, by_recipient[CLAIRE]).verifications == ()


def test_own_signature_only_refuses_the_unsigned(desk: Desk) -> None:
    assert refused(protect(desk, ALICE, [CLAIRE], sign="own")).enhanced == "5.7.5"


def test_encrypting_never_signs_only(desk: Desk) -> None:
    protected = good(protect(desk, ALICE, [CLAIRE], encrypt="never"))
    assert mime.parse(octets(protected.copies[0].content)).media_type == "multipart/signed"


def test_without_a_certificate_the_policy_decides(desk: Desk) -> None:
    answer = refused(protect(desk, ALICE, [CLAIRE, WITHOUT], without_certificate="refuse"))
    assert WITHOUT in answer.text_fr and "[sans" not in answer.text_fr
    assert answer.events[0].detail["rule"] == f"mailbox {ALICE}"
    asked = refused(protect(desk, ALICE, [CLAIRE, WITHOUT], without_certificate="ask"))
    assert "[sans chiffrement]" in asked.text_fr and "[unencrypted]" in asked.text_en
    accepted = good(protect(desk, ALICE, [CLAIRE, WITHOUT], "[sans chiffrement] Avis", without_certificate="ask"))
    assert {name for copy in accepted.copies for name in copy.recipients} == {CLAIRE, WITHOUT}
    assert all(b"chiffrement]" not in octets(copy.content) for copy in accepted.copies)
    assert isinstance(protect(desk, ALICE, [WITHOUT], "[sans chiffrement] Avis", encrypt="required"), Refusal)


def test_the_sender_is_told_when_they_asked(desk: Desk) -> None:
    assert good(protect(desk, ALICE, [CLAIRE])).confirmation == b""
    assert good(protect(desk, ALICE, [CLAIRE], confirm="unencrypted")).confirmation == b""
    told = good(protect(desk, ALICE, [CLAIRE, WITHOUT], confirm="unencrypted")).confirmation
    text = mime.parse(told).decoded(told).decode()
    assert f"chiffré pour {CLAIRE}" in text and f"pour {WITHOUT}" in text and "<1@x>" in text
    assert SECRET not in text and b"Avis" not in told
    assert good(protect(desk, ALICE, [CLAIRE], confirm="always")).confirmation


def test_a_domain_asks_for_a_code_from_all_its_mailboxes(desk: Desk) -> None:
    desk.store.set_policy(OURS, "sign", "with_code", desk.now)
    assert refused(protect(desk, ALICE, [CLAIRE])).enhanced == "5.7.8"
    code = issue(desk, desk.account(ALICE))
    good(protect(desk, ALICE, [CLAIRE], f"[{code}] Avis"))


def test_a_mailbox_that_keeps_its_keys_is_never_opened(desk: Desk) -> None:
    """Also when a key is here by mistake."""
    code = issue(desk, desk.account(GATEWAY))
    desk.store.set_policy(ALICE, "custody", "owner", desk.now)
    raw = letter(GATEWAY, code=code)
    protected = good(desk.protector().protect(raw, sender=desk.account(GATEWAY), recipients=[ALICE], at=desk.now))
    assert open_as(desk, ALICE, protected.local[ALICE]).opened
    opened = desk.protector().open(protected.local[ALICE], recipient=desk.account(ALICE), sender=GATEWAY, at=desk.now)
    assert (opened.content, opened.clear) == (protected.local[ALICE], None)


def test_a_key_of_the_domain_signs_for_its_structure_only(desk: Desk) -> None:
    for key in desk.store.key_records(GATEWAY):
        desk.store.retire_key(key.id, desk.now)
    ring = KeyRing(desk.store)
    assert ring.signer(desk.account(GATEWAY)) is None
    issued = desk.authority.issue_organisation(
        "CHU", "CHU", "1990000010", "Rhône (69)", usage="smime", email=None, at=desk.now
    )
    chain, private = pem_of(issued)
    held = desk.store.put_key(OURS, "smime", chain, private, desk.now)
    found = ring.signer(desk.account(GATEWAY))
    assert found is not None and found.key_id == held
    for key in desk.store.key_records(ALICE):
        desk.store.retire_key(key.id, desk.now)
    assert ring.signer(desk.account(ALICE)) is None


def pem_of(issued) -> tuple[bytes, bytes]:  # type: ignore[no-untyped-def]
    return pem.chain_to_pem(issued.chain), issued.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_every_use_of_a_key_names_it(desk: Desk) -> None:
    protected = good(protect(desk, ALICE, [CLAIRE]))
    signed = next(event for event in protected.events if event.name == "message.signed")
    assert signed.detail["key_id"] in {str(one.id) for one in desk.store.key_records(ALICE)}
    assert signed.detail["rule"].startswith("always (operator")
