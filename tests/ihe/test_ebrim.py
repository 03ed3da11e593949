"""XDS metadata: what is written validates against the public schemas, and is read back the same."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from ihe import (
    Association,
    Code,
    DocumentEntry,
    EbrimError,
    RegistryError,
    RegistryResponse,
    Relation,
    Submission,
    SubmissionSet,
    XdsAuthor,
    build_registry_response,
    from_xml,
    parse_registry_response,
    read_provide_and_register,
    to_metadata_xml,
    to_provide_and_register,
    with_signature,
)
from ihe.datatypes import clean, parse_cx, parse_xcn, parse_xon
from tests.ihe.support import AT, report, samples, submission_of, xds_schema

PREVIOUS = "urn:uuid:0a5c7d0e-1111-4c1d-9b1f-2f6f5b6a7c88"


def signed_lot(content: bytes) -> Submission:
    submission = submission_of(content, replaces={"Document01": PREVIOUS})
    entry = submission.documents[0]
    return with_signature(
        submission,
        b"<sig/>",
        unique_id="1.2.250.1.999.1.1.20001.3.43",
        author=entry.authors[0],
        legal_authenticator=entry.legal_authenticator,
        at=AT,
    )


def test_metadata_xml_validates_and_comes_back() -> None:
    submission = submission_of(report())
    packed = replace(submission, documents=(replace(submission.documents[0], uri="DOC00001.XML"),))
    data = to_metadata_xml(packed)
    xds_schema().assertValid(etree.fromstring(data))
    assert from_xml(data) == packed
    assert packed.problems() == ()


def test_iti_41_validates_and_comes_back() -> None:
    content = report()
    submission = signed_lot(content)
    body = to_provide_and_register(submission, {"Document01": "cda@x", "Signature01": "sig@x"})
    # XOP is a serialisation: the schema sees the optimised content as base64, so the includes are put back.
    inlined = etree.fromstring(body)
    for include in list(inlined.iter("{http://www.w3.org/2004/08/xop/include}Include")):
        holder = include.getparent()
        assert holder is not None
        holder.remove(include)
        holder.text = "PGEvPg=="
    xds_schema().assertValid(inlined)
    request = read_provide_and_register(body, {"cda@x": content, "sig@x": b"<sig/>"})
    assert request.submission == submission
    assert request.contents == {"Document01": content, "Signature01": b"<sig/>"}
    assert read_provide_and_register(etree.tostring(inlined), {}).contents["Document01"] == b"<a/>"


def test_the_lot_carries_signature_and_replacement() -> None:
    submission = signed_lot(report())
    assert submission.problems() == ()
    assert submission.replaced_by("Document01") == PREVIOUS
    signature = submission.documents[1]
    assert signature.is_signature and not submission.documents[0].is_signature
    assert [code.code for code in signature.confidentiality] == ["N", "MASQUE_PS", "INVISIBLE_PATIENT"]
    relations = [(item.relation, item.source, item.target) for item in submission.associations]
    assert (Relation.SIGNS, "Signature01", "SubmissionSet01") in relations


def test_the_metadata_come_from_the_header() -> None:
    entry = submission_of(report()).documents[0]
    person = parse_xcn(entry.authors[0].persons[0])
    structure = parse_xon(entry.authors[0].institutions[0])
    patient = parse_cx(entry.patient_id)
    assert (person.identifier, person.family, person.given) == ("899900000019", "EXEMPLE", "Alice")
    assert (structure.name, structure.identifier) == ("HOPITAL DE TEST", "1990000011")
    assert patient is not None and patient.root == "1.2.250.1.213.1.4.10"
    assert entry.creation_time == "20260301100000"
    assert entry.class_code is not None and entry.class_code.code == "10"
    assert [code.code for code in entry.confidentiality] == ["N", "INVISIBLE_PATIENT"]
    assert patient.extension not in repr(entry)


@given(st.text(max_size=40))
def test_names_cannot_bring_separators(name: str) -> None:
    assert not set(clean(name)) & set("^&~|\\\r\n")


@pytest.mark.parametrize("name", ["direct-xd_METADATA.xml", "direct-xd-common_METADATA.xml"])
def test_poor_public_metadata_are_read_and_judged(name: str) -> None:
    submission = from_xml((samples("direct-xdm") / name).read_bytes())
    assert len(submission.documents) == 1
    assert "DocumentEntry 1: patientId" in submission.problems()


_TEXT = st.text(alphabet=string.ascii_letters + string.digits + "éàœ'<>&\"^|/.-", min_size=1, max_size=12)
_CODE = st.builds(Code, _TEXT, _TEXT, _TEXT)
_AUTHOR = st.builds(XdsAuthor, *(st.tuples(_TEXT) for _ in range(4)))
_SLOTS = st.dictionaries(_TEXT.map("x:".__add__), st.tuples(_TEXT, _TEXT), max_size=2).map(lambda d: tuple(d.items()))
_NAMES = (
    *(
        "entry_id",
        "unique_id",
        "patient_id",
        "mime_type",
        "object_type",
        "logical_id",
        "status",
        "creation_time",
        "language",
    ),
    *("title", "comments", "legal_authenticator", "service_start", "service_stop", "source_patient_id", "hash", "uri"),
    "repository_unique_id",
)
_ENTRY = st.builds(
    DocumentEntry,
    **dict.fromkeys(
        _NAMES,
        _TEXT,
    ),
    **dict.fromkeys(["class_code", "type_code", "format_code", "facility_type", "practice_setting"], st.none() | _CODE),
    authors=st.lists(_AUTHOR, max_size=2).map(tuple),
    confidentiality=st.lists(_CODE, max_size=3).map(tuple),
    event_codes=st.lists(_CODE, max_size=2).map(tuple),
    source_patient_info=st.lists(_TEXT, max_size=3).map(tuple),
    size=st.integers(0, 10**9),
    reference_ids=st.lists(_TEXT, max_size=2).map(tuple),
    extra_slots=_SLOTS,
)
_LOT = st.builds(
    SubmissionSet,
    *(_TEXT for _ in range(5)),
    authors=st.lists(_AUTHOR, max_size=2).map(tuple),
    content_type=_CODE,
    title=_TEXT,
    comments=_TEXT,
    status=_TEXT,
    intended_recipients=st.lists(_TEXT, max_size=2).map(tuple),
    extra_slots=_SLOTS,
)
_SUBMISSION = st.builds(
    Submission,
    _LOT,
    st.lists(_ENTRY, max_size=2).map(tuple),
    st.lists(st.builds(Association, _TEXT, _TEXT, _TEXT, _TEXT, _SLOTS), max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(_SUBMISSION)
def test_reading_is_the_inverse_of_writing(submission: Submission) -> None:
    assert from_xml(to_metadata_xml(submission)) == submission


def test_control_characters_are_a_typed_error() -> None:
    submission = submission_of(report())
    entry = replace(submission.documents[0], title="a\x00b", uri="x")
    with pytest.raises(EbrimError) as error:
        to_metadata_xml(replace(submission, documents=(entry,)))
    assert error.value.code == "bad-text"


def test_xdm_needs_hash_size_and_uri() -> None:
    with pytest.raises(EbrimError):
        to_metadata_xml(submission_of(report()))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<a/>", "not-iti-41"),
        (b'<ProvideAndRegisterDocumentSetRequest xmlns="urn:ihe:iti:xds-b:2007"/>', "not-a-submission"),
    ],
)
def test_bodies_that_are_not_a_deposit(body: bytes, code: str) -> None:
    with pytest.raises(EbrimError) as error:
        read_provide_and_register(body, {})
    assert error.value.code == code


def test_a_missing_part_and_a_doubled_document_are_refused() -> None:
    submission = submission_of(report())
    body = to_provide_and_register(submission, {"Document01": "cda@x"})
    with pytest.raises(EbrimError) as error:
        read_provide_and_register(body, {"other@x": b""})
    assert error.value.code == "document-part"
    start, stop = body.index(b"<xdsb:Document "), body.index(b"</xdsb:Provide")
    doubled = body[:stop] + body[start:stop] + body[stop:]
    with pytest.raises(EbrimError) as error:
        read_provide_and_register(doubled, {"cda@x": b""})
    assert error.value.code == "document-id"


@pytest.mark.parametrize(
    "response",
    [
        RegistryResponse(True),
        RegistryResponse(True, (RegistryError("XDSExtraMetadataNotSaved", "slot", warning=True),)),
        RegistryResponse(
            False, (RegistryError("XDSUnknownPatientId", "patient"), RegistryError("XDSRegistryError", "x"))
        ),
    ],
)
def test_registry_responses_validate_and_come_back(response: RegistryResponse) -> None:
    data = build_registry_response(response)
    xds_schema().assertValid(etree.fromstring(data))
    assert parse_registry_response(data) == response


@pytest.mark.parametrize(
    "data", [b"<a/>", b"", b'<RegistryResponse xmlns="urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"/>']
)
def test_doubtful_responses_are_not_a_success(data: bytes) -> None:
    with pytest.raises(EbrimError):
        parse_registry_response(data)
