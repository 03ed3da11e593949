"""TD0.2, TD3.1b and TD3.3c over bytes: written, validated against the public schemas where there are any, read back, refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ihe import hl7v3, registry
from ihe.ebrim import EbrimError, RegistryError
from ihe.values import Identifier
from tests.ihe.support import AT, report, samples, submission_of, xds_schema
from tests.ihe.support import _XmlXsd as XmlXsd

PATIENT = Identifier("1.2.250.1.213.1.4.10", "279035121518989")
ENTRY = "urn:uuid:0a5c7d0e-1111-4c1d-9b1f-2f6f5b6a7c88"


def query_schema() -> etree.XMLSchema:
    """The ebRIM query schema."""
    folder = samples("schemas")
    parser = etree.XMLParser()
    parser.resolvers.add(XmlXsd(folder / "cda" / "schema" / "xml.xsd"))
    return etree.XMLSchema(etree.parse(str(folder / "xds" / "query.xsd"), parser))


def test_a_query_and_its_answers_validate_and_come_back() -> None:
    request = registry.build_get_documents(("1.2.3", "1.2.4"))
    query_schema().assertValid(etree.fromstring(request))
    assert registry.read_stored_query(request).unique_ids == ("1.2.3", "1.2.4")
    answer = registry.build_query_response((ENTRY,))
    query_schema().assertValid(etree.fromstring(answer))
    assert registry.parse_query_response(answer).entry_uuids == (ENTRY,)
    failed = registry.build_query_response((), (RegistryError("XDSRegistryBusy", "later"),))
    query_schema().assertValid(etree.fromstring(failed))
    assert [one.code for one in registry.parse_query_response(failed).errors] == ["XDSRegistryBusy"]


def test_a_deletion_validates_and_comes_back() -> None:
    lot = submission_of(report()).submission_set
    request = registry.build_deletion(lot, ENTRY)
    xds_schema().assertValid(etree.fromstring(request))
    change = registry.read_status_change(request)
    assert (change.entry_uuid, change.new, change.submission_set) == (ENTRY, registry.DELETED, lot)
    with pytest.raises(EbrimError):
        registry.build_deletion(lot, "1.2.3")


@pytest.mark.parametrize("value", ["1.2'3", "1.2\x00"])
def test_a_query_cannot_be_broken_out_of(value: str) -> None:
    with pytest.raises(EbrimError):
        registry.build_get_documents((value,))


@pytest.mark.parametrize("spoil", ["('1.2'", "1.2", "(1.2)", "()"])
def test_malformed_lists_are_refused(spoil: str) -> None:
    request = registry.build_get_documents(("9.9",)).decode().replace("('9.9')", spoil)
    with pytest.raises(EbrimError):
        registry.read_stored_query(request.encode())


def test_too_many_identifiers_are_refused() -> None:
    with pytest.raises(EbrimError):
        registry.read_stored_query(registry.build_get_documents(tuple(f"1.{n}" for n in range(101))))


@pytest.mark.parametrize(
    ("existence", "status"),
    [
        (hl7v3.Existence(hl7v3.RecordStatus.ACTIVE, "VALIDE"), hl7v3.RecordStatus.ACTIVE),
        (hl7v3.Existence(hl7v3.RecordStatus.CLOSED, "", "DMPClosed"), hl7v3.RecordStatus.CLOSED),
        (hl7v3.Existence(hl7v3.RecordStatus.ABSENT), hl7v3.RecordStatus.ABSENT),
    ],
)
def test_existence_comes_back(existence: hl7v3.Existence, status: hl7v3.RecordStatus) -> None:
    request = hl7v3.build_existence_test(PATIENT, message_id="2.25.1", source_id="2.25.2", at=AT)
    query = hl7v3.read_existence_test(request)
    assert (query.patient, query.query_id) == (PATIENT, "2.25.1")
    answer = hl7v3.build_existence_answer(query, existence, message_id="2.25.3", source_id="2.25.2", at=AT)
    assert hl7v3.parse_existence_answer(answer, PATIENT).status is status


def test_an_answer_about_another_patient_is_refused_and_an_odd_status_is_no_permission() -> None:
    query = hl7v3.ExistenceQuery(PATIENT, "2.25.1")
    active = hl7v3.Existence(hl7v3.RecordStatus.ACTIVE)
    answer = hl7v3.build_existence_answer(query, active, message_id="2.25.3", source_id="2.25.2", at=AT)
    with pytest.raises(hl7v3.Hl7V3Error):
        hl7v3.parse_existence_answer(answer, Identifier(PATIENT.root, "1" * 15))
    odd = answer.replace(b'code="active"', b'code="suspended"')
    assert hl7v3.parse_existence_answer(odd, PATIENT).status is hl7v3.RecordStatus.UNKNOWN


@given(st.binary(max_size=200))
def test_only_their_own_errors_leave(data: bytes) -> None:
    for read in (registry.read_stored_query, registry.parse_query_response, registry.read_status_change):
        with pytest.raises(EbrimError):
            read(data)
    with pytest.raises(hl7v3.Hl7V3Error):
        hl7v3.read_existence_test(data)
