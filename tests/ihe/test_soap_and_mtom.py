"""SOAP envelopes and MTOM bodies: byte exact, both SOAP versions, typed refusals."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from ihe import Fault, FaultCode, MtomError, MtomPart, SoapError, build_envelope, build_fault, mtom, parse_envelope
from ihe.soap import PROVIDE_AND_REGISTER, SOAP_12, WSSE

_CID = st.text(alphabet="abcXYZ019.@-_%", min_size=1, max_size=12).filter(lambda cid: cid != "root@caducee")


@settings(deadline=None)
@given(st.binary(max_size=200), st.dictionaries(_CID, st.binary(max_size=300), max_size=4))
def test_attachments_come_back_byte_for_byte(root: bytes, parts: dict[str, bytes]) -> None:
    content_type, body = mtom.build(root, [MtomPart(cid, content) for cid, content in parts.items()], action="urn:x")
    assert mtom.parse(content_type, body) == (root, parts)


@pytest.mark.parametrize("content", [b"\r\n", b"--\r\n--", b"\n\n\r", b"", b"\x00\xff", b"--MIMEBoundary_x--\r\n"])
def test_awkward_ends_of_parts_survive(content: bytes) -> None:
    content_type, body = mtom.build(b"<a/>", [MtomPart("a@x", content), MtomPart("b@x", content)])
    assert mtom.parse(content_type, body) == (b"<a/>", {"a@x": content, "b@x": content})


def test_the_standard_library_reads_the_same_parts() -> None:
    content_type, body = mtom.build(b"<a/>", [MtomPart("cda@x", b"<b/>")], action=PROVIDE_AND_REGISTER)
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=policy.HTTP)
    parts = list(message.iter_parts())
    assert [part["Content-ID"] for part in parts] == ["<root@caducee>", "<cda@x>"]
    assert parts[0].get_content_type() == "application/xop+xml" and parts[1].get_payload() == "<b/>"


def test_a_foreign_producer_is_read() -> None:
    body = (
        b"preamble\n--B\nContent-Type: application/xop+xml\nContent-ID:\n <r>\n\n<a/>\n--B \nContent-Id: <x%41>\n"
        b"content-transfer-encoding: BINARY\n\n1\n2\n--B--\nepilogue"
    )
    root, parts = mtom.parse('Multipart/Related; boundary=B; TYPE="application/xop+xml"', body)
    assert (root, parts) == (b"<a/>", {"x%41": b"1\n2"})


def test_a_body_without_attachments_is_read() -> None:
    assert mtom.parse("application/soap+xml; charset=UTF-8", b"<a/>") == (b"<a/>", {})


def _many(count: int) -> bytes:
    return b"".join(b"--B\r\nContent-ID: <p%d>\r\n\r\nx\r\n" % number for number in range(count)) + b"--B--"


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("text/html", b"", "content-type"),
        ("multipart/related", b"", "boundary"),
        ('multipart/related; boundary="a\\"b"', b"", "boundary"),
        ("multipart/related; boundary=B", b"--B\r\n\r\n", "truncated"),
        ("multipart/related; boundary=B", b"--B\r\nContent-ID: <a>\r\n\r\nx", "truncated"),
        ("multipart/related; boundary=B", b"--B--", "truncated"),
        ("multipart/related; boundary=B", b"--B\r\nno header\r\n--B--", "part-header"),
        ("multipart/related; boundary=B", b"--B\r\nX: " + b"y" * 20_000 + b"\r\n\r\n\r\n--B--", "part-header"),
        ("multipart/related; boundary=B", _many(500), "too-many-parts"),
        ("multipart/related; boundary=B", _many(2).replace(b"p1", b"p0"), "cid"),
        ("multipart/related; boundary=B; start=<none>", _many(2), "no-root"),
        (
            "multipart/related; boundary=B",
            b"--B\r\nContent-ID: <a>\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--B--",
            "encoding",
        ),
    ],
)
def test_refused_bodies(content_type: str, body: bytes, code: str) -> None:
    with pytest.raises(MtomError) as error:
        mtom.parse(content_type, body)
    assert error.value.code == code


def test_bounds() -> None:
    with pytest.raises(MtomError):
        mtom.parse("application/soap+xml", b"x" * 11, max_size=10)
    with pytest.raises(MtomError):
        mtom.build(b"", [MtomPart("bad id", b"")])
    with pytest.raises(MtomError):
        mtom.build(b"", [MtomPart("a", b""), MtomPart("a", b"")])


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60) | st.text(alphabet="B;=\"' *0%boundarysttype", max_size=60).map("multipart/related; ".__add__),
    st.binary(max_size=200) | st.text(alphabet="-B\r\n:<> Content-ID", max_size=120).map(str.encode),
)
def test_any_body_is_read_or_refused(content_type: str, body: bytes) -> None:
    for header in (content_type, "multipart/related; boundary=B"):
        try:
            mtom.parse(header, body)
        except MtomError as error:
            assert error.code


def test_an_envelope_comes_back() -> None:
    data = build_envelope(
        b'<a xmlns="urn:x">\xc3\xa9</a>',
        action="urn:act",
        message_id="urn:uuid:1",
        to="https://x",
        relates_to="urn:uuid:0",
    )
    found = parse_envelope(data)
    assert (found.version, found.action, found.message_id) == ("1.2", "urn:act", "urn:uuid:1")
    assert (found.to, found.relates_to, found.fault) == ("https://x", "urn:uuid:0", None)
    body = etree.fromstring(found.body)
    assert (body.tag, body.text, found.not_understood) == ("{urn:x}a", "é", ())


def test_soap_1_1_is_read() -> None:
    fault = (
        b'<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Header><x:T xmlns:x="urn:t" '
        b'S:mustUnderstand="1"/></S:Header><S:Body><S:Fault><faultcode>S:Client.DMPInvalidCertificate</faultcode>'
        b"<faultstring>Le certificat est invalide</faultstring></S:Fault></S:Body></S:Envelope>"
    )
    found = parse_envelope(fault)
    assert found.version == "1.1" and found.not_understood == ("T",)
    assert found.fault == Fault(FaultCode.SENDER, "Le certificat est invalide", "DMPInvalidCertificate")


@pytest.mark.parametrize("code", list(FaultCode))
def test_faults_come_back(code: FaultCode) -> None:
    fault = Fault(code, "Le certificat ayant signé le VIHF est invalide", "DMPInvalidCertificate")
    assert parse_envelope(build_fault(fault, message_id="urn:uuid:2", relates_to="urn:uuid:1")).fault == fault


@pytest.mark.parametrize(
    "data",
    [
        b"<a/>",
        b'<Envelope xmlns="urn:other"><Body/></Envelope>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"/>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Body/><Body/></Envelope>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Header/><Header/><Body/></Envelope>',
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Body><a/><b/></Body></Envelope>',
    ],
)
def test_envelopes_that_are_refused(data: bytes) -> None:
    with pytest.raises(SoapError):
        parse_envelope(data)


def test_header_text_cannot_become_markup() -> None:
    data = build_envelope(b"", action="<x/>&", message_id="]]>", to="a")
    assert parse_envelope(data).action == "<x/>&" and etree.fromstring(data) is not None
    with pytest.raises(SoapError):
        build_envelope(b"", action="\x00", message_id="x")


def test_many_assertions_do_not_multiply_the_namespaces_around_them() -> None:
    head = f'<s:Envelope xmlns:s="{SOAP_12}" xmlns:x="{"u" * 100_000}"><s:Header><w:Security xmlns:w="{WSSE}">'
    assertions = '<a:Assertion xmlns:a="urn:oasis:names:tc:SAML:2.0:assertion"/>' * 1000
    with pytest.raises(SoapError) as error:
        parse_envelope(f"{head}{assertions}</w:Security></s:Header><s:Body/></s:Envelope>".encode())
    assert error.value.code == "several-assertions"
