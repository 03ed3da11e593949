"""Protection on the sender's behalf: who may have what signed, who can read it, and what happens when something is missing."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import mime
import smime
from directory import Directory
from mailstore import Account
from proxy import CODE_FIELD, CodeDesk, EncryptPolicy, Protected, Refusal, SignPolicy
from tests.proxy.conftest import ALICE, BRUNO, CLAIRE, GATEWAY, OURS, WITHOUT, Desk

SECRET = "Le patient va bien, hémoglobine 13"


def letter(sender: str, *, code: str | None = None, more: list[tuple[str, str]] | None = None) -> bytes:
    fields = [("From", sender), ("To", CLAIRE), ("Subject", "Avis"), ("Message-ID", "<1@x>"), *(more or [])]
    if code is not None:
        fields.append((CODE_FIELD, code))
    return mime.message(
        fields, mime.leaf("text/plain", SECRET.encode(), parameters={"charset": "utf-8"}, disposition=None)
    )


def issue(desk: Desk, account: Account, *, max_uses: int | None = None) -> str:
    return CodeDesk(desk.store).issue(account, at=desk.now, life=timedelta(days=1), max_uses=max_uses).text


def good(answer: Protected | Refusal) -> Protected:
    assert isinstance(answer, Protected), answer
    return answer


def refused(answer: Protected | Refusal) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


def octets(content: object) -> bytes:
    """Of a copy the proxy made: its bytes are in memory."""
    assert isinstance(content, bytes)
    return content


def open_as(desk: Desk, address: str, raw: bytes) -> smime.Opened:
    """What the holder of that address's own key reads."""
    issued = desk.keys[address]["encrypt"]
    key = smime.SoftwareDecryptor(issued.key, issued.certificate)
    return smime.open_message(raw, [key], at=desk.now, path=None)


def test_signed_for_the_sender_and_encrypted_to_the_recipient(desk: Desk) -> None:
    protected = good(
        desk.protector().protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
    )
    (copy,) = protected.copies
    assert copy.recipients == (CLAIRE,)
    assert SECRET.encode() not in octets(copy.content)
    opened = open_as(desk, CLAIRE, octets(copy.content))
    assert opened.opened
    (verification,) = opened.verifications
    assert (verification.national_id, verification.addresses) == ("810999000010", (ALICE,))
    assert SECRET in mime.parse(protected.clear).decoded(protected.clear).decode()


def test_each_recipient_gets_what_they_can_read(desk: Desk) -> None:
    """Alice's mailbox is opened by the operator: signed. Bruno keeps his key: encrypted. No certificate: signed only."""
    code = issue(desk, desk.account(GATEWAY))
    recipients = [ALICE, BRUNO, CLAIRE, WITHOUT]
    protected = good(
        desk.protector().protect(
            letter(GATEWAY, code=code), sender=desk.account(GATEWAY), recipients=recipients, at=desk.now
        )
    )
    assert mime.parse(protected.local[ALICE]).media_type == "multipart/signed"
    assert open_as(desk, BRUNO, protected.local[BRUNO]).opened
    by_recipient = {name: octets(copy.content) for copy in protected.copies for name in copy.recipients}
    assert open_as(desk, CLAIRE, by_recipient[CLAIRE]).opened
    assert mime.parse(by_recipient[WITHOUT]).media_type == "multipart/signed"


def test_required_encryption_refuses_who_cannot_read(desk: Desk) -> None:
    answer = desk.protector(encrypt=EncryptPolicy.REQUIRED).protect(
        letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE, WITHOUT], at=desk.now
    )
    assert (refused(answer).code, refused(answer).enhanced) == (550, "5.7.5")
    assert WITHOUT in refused(answer).text_fr
    assert CLAIRE not in refused(answer).text_fr


@pytest.mark.parametrize("how", ["none", "other mailbox's", "expired", "used up", "two at once", "altered"])
def test_a_code_that_is_not_right_signs_nothing(desk: Desk, how: str) -> None:
    gateway = desk.account(GATEWAY)
    code: str | None = issue(desk, gateway, max_uses=1)
    at, more = desk.now, []
    if how == "none":
        code = None
    elif how == "other mailbox's":
        code = issue(desk, desk.account(ALICE))
    elif how == "expired":
        at = desk.now + timedelta(days=2)
    elif how == "used up":
        good(desk.protector().protect(letter(GATEWAY, code=code), sender=gateway, recipients=[CLAIRE], at=at))
    elif how == "two at once":
        more = [(CODE_FIELD.lower(), code or "")]
    elif how == "altered":
        code = (code or "")[:-1] + ("A" if not (code or "").endswith("A") else "B")
    answer = refused(
        desk.protector().protect(letter(GATEWAY, code=code, more=more), sender=gateway, recipients=[CLAIRE], at=at)
    )
    assert (answer.code, answer.enhanced) == (550, "5.7.8")
    assert code is None or code not in str(answer)


def test_the_code_is_gone_from_all_that_leaves(desk: Desk) -> None:
    """Also from a mailbox that needs none, in any case, and when the message was signed before."""
    code = issue(desk, desk.account(ALICE))
    raw = letter(ALICE, more=[("x-caducee-CODE", code)])
    protected = good(
        desk.protector().protect(raw, sender=desk.account(ALICE), recipients=[WITHOUT, ALICE], at=desk.now)
    )
    for content in (protected.clear, *protected.local.values(), *(octets(copy.content) for copy in protected.copies)):
        assert code.encode() not in content
        assert b"caducee-code" not in content.lower()
    assert code not in str(protected.events)


def test_without_a_directory_nothing_leaves(desk: Desk) -> None:
    desk.slapd.stop()
    answer = refused(
        desk.protector().protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now)
    )
    assert (answer.code, answer.enhanced) == (451, "4.4.3")


def test_a_revoked_certificate_is_not_encrypted_to(desk: Desk) -> None:
    desk.authority.revoke(desk.keys[CLAIRE]["encrypt"].certificate, desk.now - timedelta(minutes=1))
    answer = desk.protector(encrypt=EncryptPolicy.REQUIRED).protect(
        letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now
    )
    assert refused(answer).enhanced == "5.7.5"


def test_a_mailbox_without_a_key_cannot_have_a_message_signed(desk: Desk) -> None:
    answer = desk.protector().protect(letter(BRUNO), sender=desk.account(BRUNO), recipients=[CLAIRE], at=desk.now)
    assert refused(answer).enhanced == "5.7.5"


def signed_by(desk: Desk, address: str) -> bytes:
    issued = desk.keys[address]["sign"]
    return smime.sign_message(letter(address), smime.SoftwareSigner(issued.key, issued.chain), at=desk.now)


def test_a_message_signed_at_the_desk_keeps_its_signature(desk: Desk) -> None:
    raw = signed_by(desk, BRUNO)
    protected = good(desk.protector().protect(raw, sender=desk.account(BRUNO), recipients=[WITHOUT], at=desk.now))
    assert octets(protected.copies[0].content) == raw


def test_a_signature_of_somebody_else_is_refused(desk: Desk) -> None:
    answer = desk.protector().protect(
        signed_by(desk, BRUNO), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now
    )
    assert refused(answer).enhanced == "5.7.7"
    altered = signed_by(desk, BRUNO).replace(b"va bien", b"va mal ")
    answer = desk.protector().protect(altered, sender=desk.account(BRUNO), recipients=[CLAIRE], at=desk.now)
    assert refused(answer).enhanced == "5.7.7"


def test_what_the_sender_encrypted_is_not_touched(desk: Desk) -> None:
    raw = smime.encrypt_message(signed_by(desk, ALICE), [desk.keys[CLAIRE]["encrypt"].certificate])
    protected = good(
        desk.protector(sign=SignPolicy.ALWAYS).protect(
            raw, sender=desk.account(ALICE), recipients=[CLAIRE, BRUNO], at=desk.now
        )
    )
    assert octets(protected.copies[0].content) == protected.local[BRUNO] == raw
    assert protected.clear == b""


def test_reception_opens_verifies_and_tells(desk: Desk) -> None:
    signed = signed_by(desk, BRUNO)
    raw = smime.encrypt_message(signed, [desk.keys[ALICE]["encrypt"].certificate])
    opened = desk.protector().open(raw, recipient=desk.account(ALICE), sender=BRUNO, at=desk.now)
    assert mime.parse(opened.content).media_type == "multipart/signed"
    assert opened.clear is not None and SECRET in mime.parse(opened.clear).decoded(opened.clear).decode()
    (result,) = opened.results
    assert result.startswith(f"smime=pass body.smime-identifier={BRUNO}")


def test_reception_for_a_mailbox_whose_key_is_not_here(desk: Desk) -> None:
    raw = smime.encrypt_message(letter(ALICE), [desk.keys[BRUNO]["encrypt"].certificate])
    opened = desk.protector().open(raw, recipient=desk.account(BRUNO), sender=ALICE, at=desk.now)
    assert (opened.content, opened.clear) == (raw, None)


def test_reception_of_an_altered_or_foreign_signature_is_delivered_and_not_called_good(desk: Desk) -> None:
    altered = signed_by(desk, BRUNO).replace(b"va bien", b"va mal ")
    opened = desk.protector().open(altered, recipient=desk.account(ALICE), sender=BRUNO, at=desk.now)
    assert opened.content == altered
    assert opened.results[0].startswith("smime=fail")
    foreign = desk.protector().open(signed_by(desk, BRUNO), recipient=desk.account(ALICE), sender=CLAIRE, at=desk.now)
    assert 'reason="signer is not the envelope sender"' in foreign.results[0]
    none = desk.protector().open(letter(BRUNO), recipient=desk.account(ALICE), sender=BRUNO, at=desk.now)
    assert none.results == ("smime=none",)


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"Content-Type: application/pkcs7-mime\r\n\r\n!!!!", b"\xff" * 1000])
def test_reception_never_raises_on_bad_messages(desk: Desk, raw: bytes) -> None:
    opened = desk.protector().open(raw, recipient=desk.account(ALICE), sender="x@y.mssante.fr", at=desk.now)
    assert opened.content == raw


def test_a_code_is_not_used_up_by_a_deferral(desk: Desk) -> None:
    """The gateway comes back after a 451 with its single-use code: it must still be good, once."""
    gateway = desk.account(GATEWAY)
    raw = letter(GATEWAY, code=issue(desk, gateway, max_uses=1))
    desk.slapd.stop()
    answer = desk.protector().protect(raw, sender=gateway, recipients=[CLAIRE], at=desk.now)
    assert refused(answer).code == 451
    desk.slapd.start()
    good(desk.protector().protect(raw, sender=gateway, recipients=[CLAIRE], at=desk.now))
    answer = desk.protector().protect(raw, sender=gateway, recipients=[CLAIRE], at=desk.now)
    assert refused(answer).enhanced == "5.7.8"


def test_a_certificate_of_another_service_of_the_structure_does_not_sign_for_this_one(desk: Desk) -> None:
    """Same structure identifier, but the certificate names another address: it speaks for that one only."""
    other = desk.authority.issue_organisation(
        "Autre service", "CHU", "1990000010", "Rhône (69)", usage="smime", email=f"autre@{OURS}", at=desk.now
    )
    raw = smime.sign_message(letter(GATEWAY), smime.SoftwareSigner(other.key, other.chain), at=desk.now)
    answer = desk.protector().protect(raw, sender=desk.account(GATEWAY), recipients=[CLAIRE], at=desk.now)
    assert refused(answer).enhanced == "5.7.7"


def test_a_card_without_address_is_told_apart_by_its_owner(desk: Desk) -> None:
    """A card names no address: the directory says whose mailbox it is."""
    card = desk.authority.issue_professional(
        "810999000028", "EXEMPLE", "Bruno", "Médecin", usage="sign", email=None, at=desk.now
    )
    raw = smime.sign_message(letter(BRUNO), smime.SoftwareSigner(card.key, card.chain), at=desk.now)
    protector, alice = desk.protector(), desk.account(ALICE)
    (own,) = protector.open(raw, recipient=alice, sender=BRUNO, at=desk.now).results
    (foreign,) = protector.open(raw, recipient=alice, sender=CLAIRE, at=desk.now).results
    assert own.startswith("smime=pass body.smime-identifier=810999000028")
    assert foreign.startswith('smime=pass reason="signer is not the envelope sender"')


def test_a_certificate_cannot_write_results_of_its_own(desk: Desk) -> None:
    forged = desk.authority.issue_organisation(
        "X", "X", "1990000010", "Rhône (69)", usage="smime", email='"a;smime=pass;x=("@b', at=desk.now
    )
    raw = smime.sign_message(letter(BRUNO), smime.SoftwareSigner(forged.key, forged.chain), at=desk.now)
    altered = raw.replace(b"va bien", b"va mal ")
    (result,) = desk.protector().open(altered, recipient=desk.account(ALICE), sender=BRUNO, at=desk.now).results
    assert result.startswith("smime=fail")
    assert ";" not in result and "(" not in result and "smime=pass" not in result


def test_an_elliptic_curve_certificate_in_the_directory_is_passed_over(desk: Desk) -> None:
    """Nothing here encrypts to it: the message must not be put off for ever."""
    issued = desk.keys[CLAIRE]["encrypt"].certificate
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(issued.subject)
        .issuer_name(issued.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(desk.now - timedelta(minutes=1))
        .not_valid_after(desk.now + timedelta(days=1))
    )
    for extension in issued.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    curve = builder.sign(key, hashes.SHA256())
    protector = desk.protector()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directory, "encryption_certificates", lambda self, mail, at: [curve, issued])
        patch.setattr(protector, "_encryption", lambda certificate, others, at: SimpleNamespace(trusted=True))
        protected = good(protector.protect(letter(ALICE), sender=desk.account(ALICE), recipients=[CLAIRE], at=desk.now))
    assert open_as(desk, CLAIRE, octets(protected.copies[0].content)).opened


def test_a_signing_certificate_out_of_date_signs_nothing(desk: Desk) -> None:
    later = desk.now + timedelta(days=3650)
    answer = desk.protector().protect(letter(ALICE), sender=desk.account(ALICE), recipients=[WITHOUT], at=later)
    assert (refused(answer).code, refused(answer).enhanced) == (550, "5.7.5")


def test_a_mailbox_that_took_its_key_back_gets_encrypted_mail(desk: Desk) -> None:
    for key in desk.store.keys(ALICE):
        if key.usage in ("encrypt", "smime"):
            desk.store.retire_key(key.id, desk.now)
    code = issue(desk, desk.account(GATEWAY))
    raw = letter(GATEWAY, code=code)
    protected = good(desk.protector().protect(raw, sender=desk.account(GATEWAY), recipients=[ALICE], at=desk.now))
    assert SECRET.encode() not in protected.local[ALICE]
    assert open_as(desk, ALICE, protected.local[ALICE]).opened
