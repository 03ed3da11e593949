"""Finding documents: what is found, where, and what becomes of what cannot be read."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mime
from dmp_bridge import find_documents
from ihe.cda import read_cda
from ihe.ebrim import SubmissionSet, entry_from_cda, lot, xds_author
from ihe.samples import synthetic_patient
from ihe.xdm import XdmContent, write_xdm
from tests.dmp_bridge.bridge import message, now, xml
from tests.dossier.house import AUTHOR, make_cda, oid

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
PATIENT = synthetic_patient(1)


def package(*contents: bytes) -> bytes:
    """An IHE_XDM.zip of these CDA documents."""
    documents = []
    for number, content in enumerate(contents, start=1):
        documents.append(XdmContent(entry_from_cda(read_cda(content), content, entry_id=f"Doc{number}"), content))
    header = read_cda(contents[0])
    entries = [document.entry for document in documents]
    submission = lot(header, entries, unique_id=oid(), source_id=oid(), author=xds_author(AUTHOR), at=now())
    assert isinstance(submission.submission_set, SubmissionSet)
    return write_xdm(documents, submission, at=now(), sender="secretariat@hopital.mssante.fr")


def zipped(content: bytes, name: str = "IHE_XDM.zip") -> bytes:
    """A zip attachment."""
    return mime.leaf("application/zip", content, filename=name)


def rewrite(archive: bytes, change: dict[str, bytes | None]) -> bytes:
    """The archive with the files whose name ends so replaced, or left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data: bytes | None = old.read(info)
            for ending, content in change.items():
                if info.filename.endswith(ending):
                    data = content
            if data is not None:
                new.writestr(info.filename, data)
    return out.getvalue()


@pytest.mark.parametrize("name", ["IHE_XDM.zip", "ihe_xdm.ZIP", "IHE_XDM (1).zip"])
def test_documents_of_a_package_keep_their_bytes(name: str) -> None:
    contents = [make_cda(PATIENT, text="un"), make_cda(PATIENT, text="deux")]
    found = find_documents(message(zipped(package(*contents), name))).documents
    assert sorted(item.content for item in found) == sorted(contents)
    assert all(item.problem is None and item.header is not None for item in found)


def test_loose_forwarded_and_encoded_messages_are_searched() -> None:
    content = make_cda(PATIENT)
    inner = message(xml(content))
    forwarded = b"Content-Type: message/rfc822\r\n\r\n" + inner
    encoded = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(inner)
    eml = mime.leaf("application/octet-stream", inner, filename="transfert.eml")
    for entity in (xml(content), forwarded, encoded, eml):
        [found] = find_documents(message(entity)).documents
        assert found.content == content and found.problem is None


def test_the_original_returned_by_a_notification_is_not_deposited_again() -> None:
    inner = b"Content-Type: message/rfc822\r\n\r\n" + message(xml(make_cda(PATIENT)))
    report = mime.multipart("report", [mime.leaf("text/plain", b"lu", disposition=None), inner])
    assert find_documents(b"From: a@b.fr\r\nMIME-Version: 1.0\r\n" + report).documents == ()


def test_other_attachments_are_none_of_our_business() -> None:
    others = [xml(b"<facture/>"), mime.leaf("application/pdf", b"%PDF", filename="x.pdf"), zipped(b"PK", "photos.zip")]
    assert find_documents(message(*others)).documents == ()


def test_a_broken_package_is_reported_with_its_bytes() -> None:
    good = package(make_cda(PATIENT))
    for broken in (b"", b"not a zip", good[: len(good) // 2], rewrite(good, {".XML": None})):
        [found] = find_documents(message(zipped(broken))).documents
        assert found.problem is not None and found.content == broken


def test_a_document_altered_in_its_package_is_reported() -> None:
    content = make_cda(PATIENT)
    changed = content.replace(b"HOPITAL DE TEST", b"HOPITAL DE TOUT")
    [found] = find_documents(message(zipped(rewrite(package(content), {"DOC00001.XML": changed})))).documents
    assert found.problem is not None and found.problem.code == "hash-mismatch"


def test_an_announced_document_that_is_absent_is_reported() -> None:
    contents = [make_cda(PATIENT, text="un"), make_cda(PATIENT, text="deux")]
    found = find_documents(message(zipped(rewrite(package(*contents), {"DOC00002.XML": None})))).documents
    codes = [item.problem.code if item.problem else "" for item in found]
    assert codes == ["xdm-missing-document", ""]


def test_hostile_xml_is_reported_and_never_resolved() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><ClinicalDocument xmlns="urn:hl7-org:v3">&b;</ClinicalDocument>'
    [found] = find_documents(message(xml(bomb))).documents
    assert found.problem is not None and found.problem.code == "cda-xml-doctype"
    assert "root:" not in found.problem.text()


@pytest.mark.slow
def test_a_zip_bomb_is_bounded() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IHE_XDM/SUBSET01/METADATA.XML", b" " * (40 << 20))
    [found] = find_documents(message(zipped(out.getvalue()))).documents
    assert found.problem is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "name", "code"),
    [
        (b'<ClinicalDocument xmlns="urn:hl7-org:v3"><text>', "cr.xml", "cda-xml-size"),
        (b"PK\x03\x04", "IHE_XDM.zip", "xdm-archive-size"),
    ],
)
def test_a_hundred_megabytes_of_base64_hold_back_themselves_alone(begins: bytes, name: str, code: str) -> None:
    huge = mime.leaf("application/octet-stream", begins + bytes(75_000_000), filename=name)
    raw = message(huge, xml(make_cda(PATIENT)))
    assert len(raw) > 100_000_000
    first, second = find_documents(raw).documents
    assert first.problem is not None and first.problem.code == code
    assert second.problem is None and second.header is not None


def test_messages_nested_without_end_stop() -> None:
    inner = message(xml(make_cda(PATIENT)))
    for _ in range(8):
        inner = message(mime.leaf("application/octet-stream", inner, filename="m.eml"))
    assert len(find_documents(inner).documents) <= 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 4000), st.integers(0, 50))
def test_it_never_raises(noise: bytes, at: int, cut: int) -> None:
    raw = message(xml(make_cda(PATIENT)), zipped(b"PK\x03\x04" + noise))
    find_documents(raw[:at] + noise + raw[at + cut :])
    find_documents(noise)


def test_official_examples_are_found() -> None:
    files = sorted((SAMPLES / "ansforge").glob("cda-*/*.xml"))
    if not files:
        pytest.skip("shared/samples/ansforge is absent")
    for path in files:
        [found] = find_documents(message(xml(path.read_bytes()))).documents
        assert found.header is not None, (path.name, found.problem)


def test_public_xdm_packages_are_reported_or_read() -> None:
    files = sorted((SAMPLES / "xdm-nist").glob("*.zip"))
    if not files:
        pytest.skip("shared/samples/xdm-nist is absent")
    for path in files:
        assert find_documents(message(zipped(path.read_bytes()))).documents, path.name


def test_many_packages_share_one_budget_of_expanded_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmp_bridge.find.MAX_TOTAL", 300_000)
    packages = []
    for number in range(4):
        buffer = io.BytesIO(package(make_cda(PATIENT, text=str(number))))
        with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("IHE_XDM/SUBSET01/COPY.PDF", bytes(120_000))
        packages.append(mime.leaf("application/zip", buffer.getvalue(), filename="IHE_XDM.zip"))
    found = find_documents(message(*packages)).documents
    assert [item.problem.code if item.problem else "" for item in found] == ["", "", "xdm-too-large", "too-much"]


def test_a_document_behind_too_many_parts_is_reported() -> None:
    filler = [mime.leaf("text/plain", b"x", disposition=None)] * 1001
    [found] = find_documents(message(*filler, xml(make_cda(PATIENT)), zipped(package(make_cda(PATIENT))))).documents
    assert found.problem is not None and found.problem.code == "too-deep"
