"""What each signature covers, in every nesting; protected header fields; what stands outside is named."""

from __future__ import annotations

import pytest

import mime
import smime
from smime.coverage import Through
from smime.verdict import Finding, Verdict
from tests.smime import certificates as make
from tests.smime.certificates import AT, path
from tests.smime.test_sign_verify import MESSAGE

FIELDS = [("From", "medecin@test.mssante.fr"), ("To", "labo@test.mssante.fr"), ("Subject", "Résultats de M. X")]
TEXT = mime.leaf("text/plain", b"Bonjour,\r\nvoici.\r\n")
PDF = mime.leaf("application/pdf", b"%PDF-1.4 " + bytes(range(256)), filename="cr.pdf")
MIXED = mime.message(FIELDS, mime.multipart("mixed", [TEXT, PDF]))
ME, YOU = make.rsa_holder(), make.ec_holder()


def sign(raw: bytes, *, opaque: bool = False, protect: smime.HeaderMode | None = None) -> bytes:
    return smime.sign_message(raw, ME.signer, at=AT, opaque=opaque, protect=protect)


def seal(raw: bytes) -> bytes:
    return smime.encrypt_message(raw, [YOU.certificate])


def opened(raw: bytes) -> smime.Opened:
    return smime.open_message(raw, [YOU.decryptor], at=AT, path=path)


def covered(one: smime.Opened) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {part.media_type: (part.layers, part.nested) for part in one.survey().parts}


def test_detached_covers_its_part_and_nothing_else() -> None:
    raw = sign(MIXED)
    one = opened(raw)
    (span,) = one.coverage
    assert span.through is Through.DIRECT
    assert one.content[span.start : span.end] == mime.parse(raw).children[0].raw(raw)
    parts = covered(one)
    assert parts["text/plain"] == parts["application/pdf"] == ((0,), ())
    assert parts["application/pkcs7-signature"] == ((), ())
    assert set(one.survey().unprotected_fields) == {"From", "To", "Subject"}


@pytest.mark.parametrize("opaque", [False, True])
def test_signed_then_encrypted(opaque: bool) -> None:
    one = opened(seal(sign(MIXED, opaque=opaque)))
    (span,) = one.coverage
    assert span.through is (Through.OPAQUE if opaque else Through.DIRECT)
    assert [part.media_type for part in one.survey().outside(one.verifications)] == (
        [] if opaque else ["application/pkcs7-signature"]
    )


def test_encrypted_then_signed_covers_the_ciphertext_only() -> None:
    one = opened(sign(seal(MIXED)))
    (span,) = one.coverage
    assert span.through is Through.CIPHERTEXT
    assert [part.media_type for part in one.survey().uncovered] == ["text/plain", "application/pdf"]
    assert one.verifications[0].verdict is Verdict.VALID


def test_triple_wrapped() -> None:
    """RFC 2634 §1.1: signed, encrypted, signed again."""
    one = opened(sign(seal(sign(MIXED))))
    assert [(span.layer, span.through) for span in one.coverage] == [(0, Through.CIPHERTEXT), (1, Through.DIRECT)]
    assert [found.verdict for found in one.verifications] == [Verdict.VALID] * 2
    assert covered(one)["application/pdf"] == ((1,), ())


def entity_of(raw: bytes) -> bytes:
    """A signed message as a part: its content fields and body."""
    head, body = mime.split(raw)
    kept = b"".join(raw[f.start : f.end] for f in head if f.name.lower().startswith("content-"))
    return kept + b"\r\n" + raw[body:]


def test_a_signed_part_beside_a_footer() -> None:
    """A list adds a footer round a signed part: the part is judged for itself, the footer is named, nothing is claimed
    for the whole message."""
    footer = mime.leaf("text/html", b"<p>Bonjour, payez ici</p>")
    raw = mime.message(FIELDS, mime.multipart("mixed", [entity_of(sign(MIXED)), footer]))
    one = opened(raw)
    assert (one.verifications, one.coverage) == ((), ())
    survey = one.survey()
    (nested,) = survey.nested
    assert nested.verifications[0].verdict is Verdict.VALID and not nested.in_message
    parts = covered(one)
    assert parts["application/pdf"] == ((), (0,)) and parts["text/html"] == ((), ())
    assert "text/html" in [part.media_type for part in survey.outside(one.verifications)]
    changed = raw.replace(b"Bonjour,", b"Bonsoir,", 1)
    assert opened(changed).survey().nested[0].verifications[0].verdict is Verdict.INVALID
    outside = [part.media_type for part in opened(changed).survey().outside(())]
    assert "application/pdf" in outside


def test_a_forwarded_signed_message_speaks_for_its_own_sender() -> None:
    attached = b"Content-Type: message/rfc822\r\n\r\n" + sign(MIXED)
    raw = mime.message([("From", "evil@x.fr"), ("Subject", "Fwd")], mime.multipart("mixed", [TEXT, attached]))
    one = opened(raw)
    assert one.verifications == ()
    (nested,) = one.survey().nested
    assert nested.in_message and nested.verifications[0].findings.sender is Finding.GOOD


def test_an_encrypted_part_beside_others_is_never_opened() -> None:
    """EFAIL's direct exfiltration: the envelope between two pieces of the attacker's HTML."""
    envelope = entity_of(seal(MIXED))
    around = [mime.leaf("text/html", b'<img src="http://x/'), envelope, mime.leaf("text/html", b'">')]
    one = opened(mime.message(FIELDS, mime.multipart("mixed", around)))
    assert (one.encrypted, one.opened) == (False, False)
    (nested,) = one.survey().nested
    assert (nested.kind, nested.verifications) == (smime.LayerKind.ENVELOPED, ())
    assert b"voici" not in one.content


def test_text_round_the_parts_is_named() -> None:
    raw = sign(MIXED).replace(b"\r\n\r\n--", b"\r\n\r\nPayez vite !\r\n--", 1) + b"Et ici aussi\r\n"
    one = opened(raw)
    assert one.verifications[0].verdict is Verdict.VALID
    texts = [one.content[part.start : part.end] for part in one.survey().uncovered if not part.media_type]
    assert [b"Payez vite" in text for text in texts] == [True, False]
    assert any(b"Et ici aussi" in text for text in texts)


def test_many_nested_signatures_are_bounded() -> None:
    part = entity_of(sign(MIXED))
    raw = mime.message(FIELDS, mime.multipart("mixed", [part] * 40))
    assert len(opened(raw).survey().nested) == 16


# -- header protection ------------------------------------------------------------------------------------------------


def test_fields_are_signed_and_read_back() -> None:
    one = opened(sign(MIXED, protect=smime.HeaderMode.CLEAR))
    assert one.headers is not None and one.headers.mode is smime.HeaderMode.CLEAR
    assert {field.name: field.text for field in one.headers.fields} == dict(FIELDS)
    assert (one.headers.mismatched, one.survey().unprotected_fields) == ((), ())
    assert mime.parse(one.content).get("subject") == "Résultats de M. X"
    assert one.verifications[0].verdict is Verdict.VALID


def test_a_hidden_subject_is_inside_only() -> None:
    raw = seal(sign(MIXED, protect=smime.HeaderMode.CIPHER))
    assert mime.parse(raw).get_all("subject") == ["[...]"] and b"sultats" not in raw
    one = opened(raw)
    assert one.headers is not None
    assert {field.name: field.is_hidden for field in one.headers.fields} == {
        "From": False,
        "To": False,
        "Subject": True,
    }
    assert one.headers.text("subject") == "Résultats de M. X"
    assert one.headers.mismatched == ()
    assert one.verifications[0].findings.sender is Finding.GOOD


def test_encrypted_only_with_protection() -> None:
    raw = smime.encrypt_message(MIXED, [YOU.certificate], protect=smime.HeaderMode.CIPHER)
    one = opened(raw)
    assert one.headers is not None and one.headers.text("Subject") == "Résultats de M. X"
    assert mime.parse(raw).get("subject") == "[...]"


def test_a_changed_field_outside_is_told() -> None:
    raw = sign(MIXED, protect=smime.HeaderMode.CLEAR)
    for before, after, name in (
        (b"From: medecin@", b"From: chef@", "From"),
        (b"To: labo@", b"To: tous@", "To"),
    ):
        one = opened(raw.replace(before, after, 1))
        assert one.headers is not None and one.headers.mismatched == (name,)
        sender = one.verifications[0].findings.sender
        assert sender is (Finding.BAD if name == "From" else Finding.GOOD)


def test_a_foreign_from_inside_is_not_the_sender_either() -> None:
    """Signed by its owner, shown as somebody else's by a reader of RFC 9788: both From fields must be the signer's."""
    forged = MIXED.replace(b"medecin@test", b"chef@test", 1)
    raw = sign(forged, protect=smime.HeaderMode.CLEAR).replace(b"From: chef@test", b"From: medecin@test", 1)
    one = opened(raw)
    assert one.headers is not None and one.headers.mismatched == ("From",)
    assert one.verifications[0].findings.sender is Finding.BAD


def test_protection_without_a_signature_means_nothing() -> None:
    clear = mime.message(FIELDS, b'Content-Type: text/plain; hp="clear"\r\nFrom: chef@x.fr\r\n\r\nhello\r\n')
    assert opened(clear).headers is None


def test_fields_inside_never_reach_the_outside() -> None:
    inside = (
        b'Content-Type: text/plain; hp="cipher"\r\nFrom: chef@x.fr\r\nSubject: forged\r\nBcc: a@x.fr\r\n\r\nhello\r\n'
    )
    raw = smime.sign_entity(inside, ME.signer, at=AT)
    one = opened(mime.message(FIELDS, raw))
    assert mime.parse(one.content).get_all("from") == ["medecin@test.mssante.fr"]
    assert one.headers is not None and one.headers.text("bcc") is None


@pytest.mark.parametrize("mode", list(smime.HeaderMode))
def test_protection_of_odd_messages(mode: smime.HeaderMode) -> None:
    """8-bit fields, no Content-Type, an hp parameter of somebody else's: signed, and read back."""
    for raw in (
        MESSAGE,
        b"From: medecin@test.mssante.fr\r\nSubject: x\r\n\r\nhello\r\n",
        b'From: medecin@test.mssante.fr\r\nContent-Type: text/plain; hp="cipher"; charset=us-ascii\r\n\r\nhello\r\n',
        b"From: medecin@test.mssante.fr\r\nSubject: a\x00b\r\nKeywords: secret\r\n\r\nhello\r\n",
    ):
        one = opened(sign(raw, protect=mode))
        assert one.verifications[0].verdict is Verdict.VALID
        assert one.headers is not None and one.headers.mode is mode
        assert (b"Keywords" in one.content.split(b"\r\n\r\n")[0]) is (b"Keywords" in raw and mode == "clear")
