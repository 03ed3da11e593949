"""XDM packages: written strictly, read with tolerance, and never at the price of the reader's safety."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihe import XdmContent, XdmError, XdmLimits, read_xdm, sha1_of, to_metadata_xml, write_xdm
from tests.ihe.support import AT, report, samples, submission_of


def package(*, pdf: bytes | None = None) -> bytes:
    content = report()
    submission = submission_of(content)
    return write_xdm([XdmContent(submission.documents[0], content, pdf)], submission, at=AT, sender="Dr A & B <essai>")


def zipped(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def code_of(data: bytes) -> str:
    with pytest.raises(XdmError) as error:
        read_xdm(data)
    return error.value.code


def test_what_is_written_is_read_back() -> None:
    data = package(pdf=b"%PDF-1.4")
    found = read_xdm(data)
    (document,) = found.documents
    assert found.problems == () and document.problems == ()
    assert document.content == report()
    assert document.metadata is not None and document.metadata.hash == sha1_of(report())
    assert document.metadata.uri == "DOC00001.XML"
    assert package(pdf=b"%PDF-1.4") == data, "the same values give the same bytes"


def test_the_layout_is_the_national_one() -> None:
    names = list(unpacked(package(pdf=b"%PDF-1.4")))
    folder = "IHE_XDM/SUBSET01/"
    wanted = ["INDEX.HTM", "README.TXT", f"{folder}METADATA.XML", f"{folder}DOC00001.XML", f"{folder}DOC00001.PDF"]
    assert names == wanted
    index = unpacked(package())["INDEX.HTM"].decode()
    assert "&lt;essai&gt;" in index and "<essai>" not in index


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("C32_Sample1_in_XDM.zip", "IHE_XDM/SUBSET01/C32_SAMPLE1.XML"),
        ("CCDA_Ambulatory_in_XDM.zip", "IHE_XDM/SUBSET01/CCDA_Ambulatory.xml"),
        ("xdm.zip", "IHE_XDM/SUBSET/doc.txt"),
        ("xdm_minimal.zip", "IHE_XDM/SUBSET/doc.txt"),
    ],
)
def test_packages_made_by_others(name: str, path: str) -> None:
    found = read_xdm((samples("xdm-nist") / name).read_bytes())
    assert [document.path for document in found.documents] == [path]
    assert found.documents[0].problems == () and found.problems == ()
    assert found.documents[0].metadata is not None


def test_odd_layouts_of_real_producers() -> None:
    files = unpacked(package())
    folder = "IHE_XDM/SUBSET01/"
    parent = {f"export/{name}": content for name, content in files.items()}
    lower = {
        name.replace("METADATA.XML", "Metadata.xml").replace("DOC0", "doc0"): content for name, content in files.items()
    }
    slashless = {name.replace(folder, "IHE_XDM/SUBSET01"): content for name, content in files.items()}
    backslash = {name.replace("/", "\\"): content for name, content in files.items()}
    for layout in (parent, lower, slashless, backslash):
        found = read_xdm(zipped(layout))
        assert [document.content for document in found.documents] == [report()]
        assert found.documents[0].metadata is not None and found.problems == ()


def test_a_wrong_hash_or_size_is_a_problem_of_the_document() -> None:
    files = unpacked(package())
    files["IHE_XDM/SUBSET01/DOC00001.XML"] += b"\n"
    (document,) = read_xdm(zipped(files)).documents
    assert document.problems == ("hash-mismatch", "size-mismatch")


def test_missing_pieces_are_told_and_loose_documents_kept() -> None:
    files = unpacked(package())
    del files["INDEX.HTM"], files["README.TXT"]
    files["IHE_XDM/SUBSET01/METADATA.XML"] = b"broken"
    found = read_xdm(zipped(files))
    assert found.problems == ("no-index", "no-readme", "metadata-unreadable")
    assert found.documents[0].problems == ("no-metadata",)


def test_an_entry_cannot_name_a_file_outside_its_folder() -> None:
    content = report()
    submission = submission_of(content)
    files = unpacked(package())
    metadata = files["IHE_XDM/SUBSET01/METADATA.XML"].replace(b"DOC00001.XML", b"../../INDEX.HTM")
    files["IHE_XDM/SUBSET01/METADATA.XML"] = metadata
    found = read_xdm(zipped(files))
    assert "missing-document" in found.problems
    assert [document.path for document in found.documents] == ["IHE_XDM/SUBSET01/DOC00001.XML"]
    assert submission.documents


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "IHE_XDM/../../x", "C:\\x", "a\\..\\..\\b", "\\\\host\\x"])
def test_traversal_is_refused(name: str) -> None:
    assert code_of(zipped({"IHE_XDM/SUBSET01/METADATA.XML": b"", name: b"x"})) == "unsafe-name"


def test_links_are_refused() -> None:
    info = zipfile.ZipInfo("IHE_XDM/SUBSET01/METADATA.XML")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert code_of(buffer.getvalue()) == "unsafe-entry"


def test_encrypted_entries_are_refused() -> None:
    data = bytearray(zipped({"IHE_XDM/SUBSET01/METADATA.XML": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert code_of(bytes(data)) == "encrypted"


def test_exotic_compression_is_refused() -> None:
    assert code_of(zipped({"IHE_XDM/SUBSET01/METADATA.XML": b"x"}, method=zipfile.ZIP_LZMA)) == "compression"


def test_duplicate_names_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("IHE_XDM/a.xml", "1")
            archive.writestr("IHE_XDM/a.xml", "2")
    assert code_of(buffer.getvalue()) == "duplicate-name"


def test_too_many_entries_are_refused() -> None:
    assert code_of(zipped({f"IHE_XDM/{number}": b"" for number in range(1001)})) == "too-many-entries"


def test_a_bomb_is_stopped_while_it_expands() -> None:
    bomb = zipped({"IHE_XDM/SUBSET01/DOC.XML": bytes(40 * 1024 * 1024)})
    tracemalloc.start()
    assert code_of(bomb) == "too-large"
    assert tracemalloc.get_traced_memory()[1] < 20 * 1024 * 1024
    tracemalloc.stop()
    many = {f"IHE_XDM/SUBSET01/{number}.XML": b"ab" * 1000 for number in range(20)}
    with pytest.raises(XdmError):
        read_xdm(zipped(many), limits=XdmLimits(expanded=30_000))


def test_a_bomb_that_lies_about_its_size_is_stopped() -> None:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeezed.compress(bytes(20 * 1024 * 1024)) + squeezed.flush()
    data = bytearray(zipped({"IHE_XDM/SUBSET01/DOC.XML": b"x"}))
    name = b"IHE_XDM/SUBSET01/DOC.XML"
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(body), 10, len(name), 0)
    local = b"PK\x03\x04" + fields + name + body
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    data = bytearray(local + central)
    data += b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    assert code_of(bytes(data)) == "not-a-zip"


def test_nested_archives_stay_closed() -> None:
    inner = zipped({"../x": b""})
    found = read_xdm(zipped({**unpacked(package()), "IHE_XDM/SUBSET01/INNER.ZIP": inner}))
    assert len(found.documents) == 1


def test_other_archives_are_not_xdm() -> None:
    assert code_of(zipped({"a.txt": b"x"})) == "not-xdm"
    assert code_of(b"not a zip") == "not-a-zip"


def test_a_pdf_copy_must_be_a_pdf() -> None:
    with pytest.raises(XdmError):
        package(pdf=b"<html>")


def test_the_packed_entry_is_that_of_the_packed_bytes() -> None:
    content = report()
    submission = submission_of(content)
    lying = replace(submission.documents[0], hash="0" * 40, size=1)
    found = read_xdm(write_xdm([XdmContent(lying, content)], submission, at=AT, sender="x"))
    assert found.documents[0].problems == ()


_PACKAGE = package()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(_PACKAGE) - 1), st.integers(0, 40), st.binary(max_size=12))
def test_damaged_archives_are_read_or_refused(start: int, length: int, patch: bytes) -> None:
    try:
        read_xdm(_PACKAGE[:start] + patch + _PACKAGE[start + length :])
    except XdmError as error:
        assert error.code


def test_many_entries_for_one_large_document_cost_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    content = report()
    base = submission_of(content).documents[0]
    large = content + b" " * (4 * 1024 * 1024)
    digest = sha1_of(large)
    entries = tuple(
        replace(base, entry_id=f"D{number}", uri="DOC.XML", hash=digest, size=len(large)) for number in range(300)
    )
    metadata = to_metadata_xml(replace(submission_of(content), documents=entries))
    folder = "IHE_XDM/SUBSET01/"
    data = zipped({f"{folder}METADATA.XML": metadata, f"{folder}DOC.XML": large})
    limits = XdmLimits(ratio=5000)
    hashed: list[int] = []

    def counted(read: bytes) -> str:
        hashed.append(len(read))
        return sha1_of(read)

    monkeypatch.setattr("ihe.xdm.sha1_of", counted)
    found = read_xdm(data, limits=limits)
    assert hashed == [len(large)]
    (document,) = found.documents
    assert document.problems == () and "document-twice" in found.problems
    assert found.expanded == len(metadata) + len(large)
