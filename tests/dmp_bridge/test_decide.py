"""What the machine may deposit by itself, and the reason a person reads otherwise."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from dmp_bridge import DepositContext, Desk, plan_deposits
from dmp_bridge.register import RegisterUnavailable
from ihe.cda import read_cda
from ihe.cda_rules import Finding
from ihe.samples import synthetic_patient
from mailstore.model import DepositState, NewDeposit
from tests.dmp_bridge.bridge import context, message, now, package, xml
from tests.dossier.house import make_cda

PATIENT = synthetic_patient(1)
CDA = make_cda(PATIENT)


def reasons(
    *contents: bytes, sender: DepositContext | None = None, to: str = "medecin@cabinet.mssante.fr"
) -> list[str]:
    """The codes of the planned deposits; empty for READY."""
    planned = plan_deposits(message(*(xml(content) for content in contents), to=to), sender or context())
    for deposit in planned:
        assert (deposit.state is DepositState.READY) == (deposit.reason == "")
        assert PATIENT.ins not in deposit.reason and PATIENT.birth_name not in deposit.reason
    return [deposit.reason.partition(":")[0] for deposit in planned]


def test_a_good_document_is_ready() -> None:
    assert reasons(CDA) == [""]


def swap(pattern: str, by: str) -> bytes:
    """The document with something changed; the test fails when nothing is."""
    changed = re.sub(pattern, by, CDA.decode(), count=1)
    assert changed != CDA.decode()
    return changed.encode()


CASES = [
    (f'extension="{PATIENT.ins}"', 'extension=""', "ins-missing"),
    ('root="1.2.250.1.213.1.4.10"', 'root="1.2.250.1.213.1.4.99"', "ins-missing"),
    ('root="1.2.250.1.213.1.4.10"', 'root="1.2.250.1.213.1.4.8"', "ins-environment"),
    ('<administrativeGenderCode code="[MF]"', "<administrativeGenderCode ", "ins-traits"),
    ('<code code="34112-3"', '<code code="51851-4"', "type-not-dmp"),
    ('<code code="34112-3"', '<code code="34120-6"', "class-unknown"),
    ('<confidentialityCode code="N"', '<confidentialityCode code="R"', "confidentiality"),
    ('<confidentialityCode code="N"', '<confidentialityCode code="V"', "confidentiality"),
    ("<legalAuthenticator>.*</legalAuthenticator>", "", "metadata-missing"),
    ("<standardIndustryClassCode[^>]*>", "", "metadata-missing"),
    (r'(<id root="[0-9.]+")', r'\1 extension="7"', "id-extension"),
]


@pytest.mark.parametrize(("pattern", "by", "code"), CASES)
def test_each_rule_holds_back(pattern: str, by: str, code: str) -> None:
    assert reasons(swap(f"(?s){pattern}", by)) == [code]


def test_a_production_identity_with_a_wrong_key_is_refused_and_a_right_one_not() -> None:
    production = context(practice=False)
    right = swap(r'root="1.2.250.1.213.1.4.10"', 'root="1.2.250.1.213.1.4.8"')
    assert reasons(right, sender=production) == [""]
    key = f"{(int(PATIENT.ins[13:]) % 97) + 1:02d}"
    wrong = right.replace(f'extension="{PATIENT.ins}"'.encode(), f'extension="{PATIENT.ins[:13]}{key}"'.encode())
    assert reasons(wrong, sender=production) == ["ins-key"]
    assert reasons(CDA, sender=production) == ["ins-environment"]


def test_the_sender_must_belong_to_the_document() -> None:
    assert reasons(CDA, sender=context(structure_id="1990000029")) == ["sender-mismatch"]
    assert reasons(CDA, sender=context(structure_id="")) == ["structure-unknown"]
    author = context(structure_id="1990000029", responsible_id="899900000019")
    assert reasons(CDA, sender=author) == [""]


def test_two_patients_in_one_message_hold_both_back() -> None:
    assert reasons(CDA, make_cda(synthetic_patient(2))) == ["two-patients", "two-patients"]


def test_one_identifier_for_two_contents_holds_both_back_and_a_copy_is_one_deposit() -> None:
    other = CDA.replace(b"HOPITAL DE TEST", b"HOPITAL DE TOUT")
    assert reasons(CDA, other) == ["id-reused", "id-reused"]
    assert reasons(CDA, CDA) == [""]


def test_a_message_to_another_patient_is_held_back() -> None:
    assert reasons(CDA, to=f"{PATIENT.ins}@patient.mssante.fr") == [""]
    assert reasons(CDA, to=f"{synthetic_patient(2).ins}@patient.mssante.fr") == ["recipient-mismatch"]


def related(code: str) -> bytes:
    """The document, related to another one."""
    other = (
        rf'<relatedDocument typeCode="{code}"><parentDocument><id root="1.2.3"/></parentDocument></relatedDocument>\1'
    )
    return swap(r"(<componentOf>)", other)


def test_a_replacement_is_ready_and_a_transformation_is_held_back() -> None:
    assert reasons(related("RPLC")) == [""]
    assert reasons(related("XFRM")) == ["transformation"]


def planned(*entities: bytes, head: bytes = b"", desk: Desk | None = None) -> list[NewDeposit]:
    """The deposits planned now, with more header fields and a desk."""
    return list(plan_deposits(head + message(*entities), context(), at=now(), desk=desk))


def codes(deposits: list[NewDeposit]) -> list[list[str]]:
    """Every code that holds each deposit back."""
    return [[part.partition(":")[0] for part in one.reason.split(" ; ") if part] for one in deposits]


def test_every_reason_is_given_not_the_first_only() -> None:
    bad = swap('<code code="34112-3"', '<code code="51851-4"').replace(
        b'confidentialityCode code="N"', b'confidentialityCode code="V"'
    )
    [found] = codes(planned(xml(bad)))
    assert {"type-not-dmp", "confidentiality"} <= set(found)


def test_the_future_is_held_back() -> None:
    future = (now() + timedelta(days=2)).strftime("%Y%m%d%H%M%S+0000").replace("+", r"+")
    assert codes(planned(xml(swap(r'<effectiveTime value="[^"]+"', f'<effectiveTime value="{future}"')))) == [
        ["future-date"]
    ]


@pytest.mark.parametrize(
    ("pattern", "by", "code"),
    [
        ('<code code="SA01"', '<code code="SA99"', "facility-unknown"),
        (
            'standardIndustryClassCode code="ETABLISSEMENT"',
            'standardIndustryClassCode code="AILLEURS"',
            "practice-unknown",
        ),
    ],
)
def test_codes_outside_the_value_sets_are_held_back(pattern: str, by: str, code: str) -> None:
    assert code in codes(planned(xml(swap(pattern, by))))[0]


def test_opposition_holds_back_and_so_does_a_register_that_is_down() -> None:
    def broken(ins: str, oid: str) -> bool:
        raise RegisterUnavailable("down")

    assert codes(planned(xml(CDA), desk=Desk(opposed=lambda ins, oid: ins == PATIENT.ins))) == [["opposed"]]
    assert codes(planned(xml(CDA), desk=Desk(opposed=lambda ins, oid: False))) == [[]]
    assert codes(planned(xml(CDA), desk=Desk(opposed=broken))) == [["register"]]


def test_an_identity_that_the_message_calls_unqualified_is_held_back() -> None:
    assert codes(planned(xml(CDA), head=b"X-MSS-INS: N\r\n")) == [["identity"]]
    assert codes(planned(xml(CDA), head=b"X-MSS-INS: O\r\n")) == [[]]


def test_a_failing_check_is_never_a_pass() -> None:
    class Broken:
        def findings(self, content: bytes, opened: object) -> list[Finding]:
            raise RuntimeError("no schema")

    assert codes(planned(xml(CDA), desk=Desk(checks=(Broken(),)))) == [["check-failed"]]


def test_announcements_of_a_package_become_actions_and_masks() -> None:
    deposits = planned(package(CDA, action="D", masks=("INVISIBLE_PATIENT",)))
    assert codes(deposits) == [[]]
    asked = DepositContext.from_json(deposits[0].context)
    assert (asked.action, asked.visibility) == ("delete", ("INVISIBLE_PATIENT",))
    assert deposits[0].unique_id == "delete:" + read_cda(CDA).unique_id
    assert codes(planned(package(CDA, action="C"))) == [["replacement"]]
    replacing = related("RPLC")
    assert codes(planned(package(replacing, action="C"))) == [[]]
    # What is deleted may itself be a second version.
    assert codes(planned(package(replacing, action="D"))) == [[]]


def test_a_document_hidden_from_the_patient_is_not_held_quietly_when_it_is_sent_to_the_patient() -> None:
    raw = message(package(CDA, masks=("INVISIBLE_PATIENT",)), to=f"{PATIENT.ins}@patient.mssante.fr")
    assert codes(list(plan_deposits(raw, context(), at=now()))) == [["invisible-sent"]]


def test_context_survives_its_json_and_refuses_nonsense() -> None:
    sender = context(responsible_surname="Éléonore", practice=False)
    assert DepositContext.from_json(sender.to_json()) == sender
    for bad in (b"", b"[]", b'{"sender": 1}', b'{"practice": "no"}', b"{}"):
        with pytest.raises((ValueError, TypeError)):
            DepositContext.from_json(bad)
