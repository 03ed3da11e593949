"""The check of send codes: scope, counting, slowing down, and answers that tell a thief nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mailstore import Account
from proxy import BadScope, CodeDesk, Refusal, Scope, codes, new_code
from proxy.checking import FAILURES_ALLOWED, CodeState
from tests.proxy.conftest import ALICE, BRUNO, CLAIRE, GATEWAY, OURS, WITHOUT, Desk
from tests.proxy.test_protection import good, issue, letter, refused

DAY = timedelta(days=1)


def send(desk: Desk, code: str, *, sender: str = GATEWAY, to: str = CLAIRE, peer: str = "192.0.2.7", at=None):  # type: ignore[no-untyped-def]
    return desk.protector().protect(
        letter(sender, code=code), sender=desk.account(sender), recipients=[to], at=at or desk.now, peer=peer
    )


def scoped(desk: Desk, account: Account, **limits: list[str]) -> str:
    return CodeDesk(desk.store).issue(account, at=desk.now, life=DAY, scope=Scope.of(**limits)).text


def test_every_wrong_code_gets_the_same_answer_and_is_told_apart_in_the_audit_trail_only(desk: Desk) -> None:
    expired, other = issue(desk, desk.account(GATEWAY)), issue(desk, desk.account(ALICE))
    answers = [
        refused(send(desk, new_code().text)),
        refused(send(desk, "pas un code")),
        refused(send(desk, other)),
        refused(send(desk, expired, at=desk.now + 2 * DAY)),
    ]
    assert len({(one.code, one.enhanced, one.text_fr, one.text_en) for one in answers}) == 1
    assert [one.events[0].detail["reason"] for one in answers] == ["unknown", "malformed", "sender", "expired"]


def test_wrong_codes_are_slowed_down_then_closed_and_alarmed(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    right = issue(desk, desk.account(GATEWAY))
    wrong = [new_code().text for _ in range(FAILURES_ALLOWED)]
    answers = [refused(send(desk, one)) for one in wrong]
    assert [one.delay for one in answers] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert [event.name for event in answers[-1].events] == ["code.refused", "code.alarm"]
    closed = refused(send(desk, right))
    assert (closed.code, closed.enhanced) == (451, "4.7.1")
    good(send(desk, right, at=desk.now + timedelta(minutes=11)))
    assert "closed after repeated failures" in caplog.text
    assert not any(one in caplog.text or one.replace("-", "") in caplog.text for one in (*wrong, right))


def test_the_operator_opens_a_closed_mailbox_again(desk: Desk) -> None:
    right = issue(desk, desk.account(GATEWAY))
    for _ in range(FAILURES_ALLOWED):
        send(desk, new_code().text)
    assert refused(send(desk, right)).enhanced == "4.7.1"
    assert CodeDesk(desk.store).reopen(desk.account(GATEWAY), at=desk.now) == FAILURES_ALLOWED
    good(send(desk, right))
    assert refused(send(desk, new_code().text)).delay == 1.0


def test_another_mailbox_is_not_closed_with_it(desk: Desk) -> None:
    for _ in range(FAILURES_ALLOWED):
        send(desk, new_code().text)
    good(send(desk, issue(desk, desk.account(ALICE)), sender=ALICE))


def test_a_wrong_code_is_refused_even_where_none_is_needed(desk: Desk) -> None:
    assert refused(send(desk, new_code().text, sender=ALICE)).enhanced == "5.7.8"
    good(send(desk, issue(desk, desk.account(ALICE)), sender=ALICE, at=desk.now + 2 * DAY))  # genuine, out of date


def test_several_codes_are_refused_with_a_reason_of_their_own(desk: Desk) -> None:
    code = issue(desk, desk.account(GATEWAY))
    raw = letter(GATEWAY, code=code).replace(b"Subject: Avis", f"Subject: [{code}] Avis".encode())
    answer = refused(desk.protector().protect(raw, sender=desk.account(GATEWAY), recipients=[CLAIRE], at=desk.now))
    assert "une seule fois" in answer.text_fr
    assert refused(send(desk, code + code)).enhanced == "5.7.8"


def test_a_code_counts_from_its_networks_only(desk: Desk) -> None:
    code = scoped(desk, desk.account(GATEWAY), networks=["192.0.2.0/24", "2001:db8::/32"])
    good(send(desk, code))
    good(send(desk, code, peer="2001:db8::1"))
    good(send(desk, code, peer="::ffff:192.0.2.9"))
    for peer in ("198.51.100.1", "", "unknown"):
        assert refused(send(desk, code, peer=peer)).events[0].detail["reason"] == "network"


def test_a_code_counts_for_its_recipients_domains_only(desk: Desk) -> None:
    code = scoped(desk, desk.account(GATEWAY), domains=["medecin.mssante.fr"])
    good(send(desk, code, to=WITHOUT))
    assert refused(send(desk, code, to=BRUNO)).events[0].detail["reason"] == "recipient"


def test_a_gateways_code_counts_for_the_senders_it_names(desk: Desk) -> None:
    code = scoped(desk, desk.account(GATEWAY), senders=[GATEWAY, ALICE])
    good(send(desk, code))
    good(send(desk, code, sender=ALICE))
    assert refused(send(desk, code, sender=BRUNO)).events[0].detail["reason"] == "sender"
    good(send(desk, scoped(desk, desk.account(GATEWAY), senders=[f"*@{OURS}"]), sender=ALICE))


def test_rotation_leaves_the_old_code_its_overlap(desk: Desk) -> None:
    gateway, service = desk.account(GATEWAY), CodeDesk(desk.store)
    old = service.issue(
        gateway, at=desk.now, life=30 * DAY, scope=Scope.of(domains=["medecin.mssante.fr"]), label="labo"
    )
    (kept,) = desk.store.send_codes(gateway.id)
    new = service.rotate(kept, gateway, at=desk.now, life=60 * DAY, overlap=7 * DAY)
    for code in (old.text, new.text):
        good(send(desk, code, at=desk.now + 6 * DAY))
    assert isinstance(send(desk, old.text, at=desk.now + 8 * DAY), Refusal)
    good(send(desk, new.text, at=desk.now + 8 * DAY))
    listed = {one.code_id: one for one in desk.store.send_codes(gateway.id)}
    assert (listed[new.code_id].label, listed[new.code_id].scope) == ("labo", kept.scope)
    assert old.text not in repr(old)


@pytest.mark.parametrize(
    "limits",
    [
        {"networks": ["192.0.2.0/99"]},
        {"senders": ["pas une adresse"]},
        {"domains": ["é.fr"]},
        {"domains": ["a.fr"] * 101},
    ],
)
def test_a_scope_that_says_nothing_is_refused(limits: dict[str, list[str]]) -> None:
    with pytest.raises(BadScope):
        Scope.of(**limits)


def test_a_scope_altered_in_the_database_allows_nothing(desk: Desk) -> None:
    code, gateway = new_code(), desk.account(GATEWAY)
    desk.store.add_send_code(gateway.id, code.code_id, code.digest, desk.now + DAY, None, desk.now, scope="[1]")
    assert refused(send(desk, code.text)).events[0].detail["reason"] == "scope unreadable"


def test_a_check_tells_the_state_of_a_code(desk: Desk) -> None:
    gateway, service = desk.account(GATEWAY), CodeDesk(desk.store)

    def state(text: str | None) -> CodeState:
        shown = [text] if text is not None else []
        found = service.check(shown, sender=gateway, recipients=[CLAIRE], peer="", at=desk.now)
        assert not isinstance(found, Refusal)
        return found.state

    code = issue(desk, gateway, max_uses=1)
    letters = codes.normalise(code)
    assert letters is not None
    assert (state(None), state(code)) == (CodeState.NONE, CodeState.GOOD)
    service.use(codes.code_id(letters), desk.now)
    assert state(code) is CodeState.STALE
