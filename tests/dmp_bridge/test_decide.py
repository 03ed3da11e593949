"""What the machine may deposit by itself, and the reason a person reads otherwise."""

from __future__ import annotations

import re

import pytest

from dmp_bridge import DepositContext, plan_deposits
from ihe.samples import synthetic_patient
from mailstore.model import DepositState
from tests.dmp_bridge.bridge import context, message, xml
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


def test_a_replacement_is_held_back() -> None:
    related = (
        r'<relatedDocument typeCode="RPLC"><parentDocument><id root="1.2.3"/></parentDocument></relatedDocument>\1'
    )
    assert reasons(swap(r"(<componentOf>)", related)) == ["replacement"]


def test_context_survives_its_json_and_refuses_nonsense() -> None:
    sender = context(responsible_surname="Éléonore", practice=False)
    assert DepositContext.from_json(sender.to_json()) == sender
    for bad in (b"", b"[]", b'{"sender": 1}', b'{"practice": "no"}', b"{}"):
        with pytest.raises((ValueError, TypeError)):
            DepositContext.from_json(bad)
