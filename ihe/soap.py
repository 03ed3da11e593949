"""SOAP envelopes: written in 1.2, read in 1.1 and 1.2, with WS-Addressing and a WS-Security header holding a VIHF.

Envelope in, values out; no transport. The assertion is carried as bytes and never changed (its signature is made with
exclusive canonicalisation, so that it survives the move into the envelope). Source: dmp.md §1.1, §1.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from lxml import etree

from ihe.xml import Element, XmlError, XmlLimits, escaped, is_xml_text, local_name, parse_xml, text_of, to_bytes

SOAP_12 = "http://www.w3.org/2003/05/soap-envelope"
SOAP_11 = "http://schemas.xmlsoap.org/soap/envelope/"
WSA = "http://www.w3.org/2005/08/addressing"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
ANONYMOUS = f"{WSA}/anonymous"
PROVIDE_AND_REGISTER = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"
PROVIDE_AND_REGISTER_RESPONSE = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-bResponse"

_VERSIONS = {SOAP_12: "1.2", SOAP_11: "1.1"}
_LIMITS = XmlLimits(size=64 * 1024 * 1024)
_MAX_ASSERTIONS = 4


class SoapError(Exception):
    """The bytes are not a readable envelope. `code` is stable; no content is quoted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class FaultCode(StrEnum):
    """SOAP 1.2 fault codes (1.1's Client and Server are read as SENDER and RECEIVER)."""

    SENDER = "Sender"
    RECEIVER = "Receiver"
    MUST_UNDERSTAND = "MustUnderstand"
    VERSION_MISMATCH = "VersionMismatch"
    DATA_ENCODING = "DataEncodingUnknown"


@dataclass(frozen=True, slots=True)
class Fault:
    """A SOAP fault. `subcode` without prefix, for example `DMPInvalidCertificate`."""

    code: FaultCode
    reason: str
    subcode: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A read envelope. `body` is the single element of the body ("" when empty); `assertions` the SAML assertions of the
    WS-Security header; `not_understood` the names of foreign headers marked mustUnderstand."""

    version: str
    action: str
    message_id: str
    relates_to: str
    to: str
    assertions: tuple[bytes, ...] = field(repr=False)
    body: bytes = field(repr=False)
    fault: Fault | None = None
    not_understood: tuple[str, ...] = ()


def _header(name: str, value: str, *, must_understand: bool = False) -> str:
    """A WS-Addressing header, "" without a value. Raises SoapError(`bad-text`)."""
    if not value:
        return ""
    try:
        text = escaped(value)
    except XmlError as error:
        raise SoapError("bad-text", error.message) from None
    inside = f"<wsa:Address>{text}</wsa:Address>" if name == "ReplyTo" else text
    mark = ' soap:mustUnderstand="true"' if must_understand else ""
    return f"<wsa:{name}{mark}>{inside}</wsa:{name}>"


def _element(data: bytes) -> bytes:
    """Bytes that stand for one element inside another document: what comes before a root cannot come along."""
    if not data.startswith(b"<") or data.startswith((b"<?", b"<!")):
        raise SoapError("bad-xml", "one element is expected, without a declaration before it")
    return data


def build_envelope(
    body: bytes,
    *,
    action: str,
    message_id: str,
    to: str = "",
    reply_to: str = "",
    relates_to: str = "",
    assertion: bytes | None = None,
) -> bytes:
    """A SOAP 1.2 envelope (UTF-8). `body` is one XML element (or empty) as a codec wrote it; `message_id` is a `urn:uuid:…`.

    `body` and `assertion`, a signed VIHF that goes into `wsse:Security`, are carried as they are: not one byte is changed,
    nothing is read again. Raises SoapError(`bad-xml`, `bad-text`).
    """
    addressing = (
        _header("Action", action, must_understand=True)
        + _header("MessageID", message_id)
        + _header("To", to)
        + _header("ReplyTo", reply_to, must_understand=True)
        + _header("RelatesTo", relates_to)
    )
    security = b""
    if assertion is not None:
        security = f'<wsse:Security xmlns:wsse="{WSSE}">'.encode() + _element(assertion) + b"</wsse:Security>"
    return b"".join(
        (
            f"<?xml version='1.0' encoding='UTF-8'?>\n<soap:Envelope xmlns:soap=\"{SOAP_12}\">"
            f'<soap:Header xmlns:wsa="{WSA}">{addressing}'.encode(),
            security,
            b"</soap:Header><soap:Body>",
            _element(body) if body else b"",
            b"</soap:Body></soap:Envelope>",
        )
    )


def build_request(body: bytes, *, action: str, message_id: str, to: str, assertion: bytes) -> bytes:
    """A request that waits for its answer on the same connection (ReplyTo anonymous; dmp.md §1.1)."""
    return build_envelope(body, action=action, message_id=message_id, to=to, reply_to=ANONYMOUS, assertion=assertion)


def build_fault(fault: Fault, *, message_id: str, relates_to: str = "", action: str = f"{WSA}/fault") -> bytes:
    """A SOAP 1.2 fault envelope; `reason` in French."""
    node = etree.Element(f"{{{SOAP_12}}}Fault", nsmap={"soap": SOAP_12})
    code = etree.SubElement(node, f"{{{SOAP_12}}}Code")
    etree.SubElement(code, f"{{{SOAP_12}}}Value").text = f"soap:{fault.code}"
    if fault.subcode:
        inner = etree.SubElement(code, f"{{{SOAP_12}}}Subcode")
        etree.SubElement(inner, f"{{{SOAP_12}}}Value").text = f"soap:{fault.subcode}"
    reason = etree.SubElement(etree.SubElement(node, f"{{{SOAP_12}}}Reason"), f"{{{SOAP_12}}}Text")
    reason.set("{http://www.w3.org/XML/1998/namespace}lang", "fr")
    if not is_xml_text(fault.reason):
        raise SoapError("bad-text", "the reason holds characters that XML cannot carry")
    reason.text = fault.reason
    return build_envelope(to_bytes(node), action=action, message_id=message_id, relates_to=relates_to)


def _unprefixed(value: str) -> str:
    return value.rpartition(":")[2].strip()


def _read_fault(element: Element, namespace: str) -> Fault:
    if namespace == SOAP_11:
        code = _unprefixed(text_of(element.find("faultcode")))
        reason, subcode = text_of(element.find("faultstring")), ""
        head, dot, rest = code.partition(".")
        code = {"Client": "Sender", "Server": "Receiver"}.get(head, head)
        subcode = rest if dot else ""
    else:
        prefix = {"s": SOAP_12}
        code = _unprefixed(text_of(element.find("s:Code/s:Value", prefix)))
        subcode = _unprefixed(text_of(element.find("s:Code/s:Subcode/s:Value", prefix)))
        reason = text_of(element.find("s:Reason/s:Text", prefix))
    known = code in {item.value for item in FaultCode}
    return Fault(FaultCode(code) if known else FaultCode.RECEIVER, reason, subcode or ("" if known else code))


def _foreign(header: Element, namespace: str) -> tuple[str, ...]:
    found = []
    for item in header:
        if not isinstance(item.tag, str) or etree.QName(item).namespace in (WSA, WSSE):
            continue
        if item.get(f"{{{namespace}}}mustUnderstand") in ("1", "true"):
            found.append(local_name(item))
    return tuple(found)


def parse_envelope(data: bytes, *, max_size: int = _LIMITS.size) -> Envelope:
    """Reads an envelope of SOAP 1.1 or 1.2. Raises SoapError: `xml-*`, `not-soap`, `no-body`, `several-bodies`,
    `several-headers`, `several-assertions` (more than any sender has a use for)."""
    try:
        root = parse_xml(data, XmlLimits(size=max_size))
    except XmlError as error:
        raise SoapError(error.code, error.message) from None
    name = etree.QName(root)
    namespace = name.namespace or ""
    if name.localname != "Envelope" or namespace not in _VERSIONS:
        raise SoapError("not-soap", "not a SOAP envelope")
    bodies = root.findall(f"{{{namespace}}}Body")
    if len(bodies) != 1:
        raise SoapError("no-body", "exactly one body is expected")
    elements = [item for item in bodies[0] if isinstance(item.tag, str)]
    if len(elements) > 1:
        raise SoapError("several-bodies", "one element is expected in the body")
    headers = root.findall(f"{{{namespace}}}Header")
    if len(headers) > 1:
        raise SoapError("several-headers", "one header is expected")
    header = headers[0] if headers else etree.Element("none")
    assertions = header.findall(f"{{{WSSE}}}Security/{{{SAML}}}Assertion")
    if len(assertions) > _MAX_ASSERTIONS:
        # Each one is written out with every namespace in scope: their number is what bounds the memory.
        raise SoapError("several-assertions", "too many assertions")
    content = elements[0] if elements else None
    fault = content is not None and content.tag == f"{{{namespace}}}Fault"
    return Envelope(
        version=_VERSIONS[namespace],
        action=text_of(header.find(f"{{{WSA}}}Action")),
        message_id=text_of(header.find(f"{{{WSA}}}MessageID")),
        relates_to=text_of(header.find(f"{{{WSA}}}RelatesTo")),
        to=text_of(header.find(f"{{{WSA}}}To")),
        assertions=tuple(to_bytes(item) for item in assertions),
        body=b"" if content is None else to_bytes(content),
        fault=_read_fault(content, namespace) if fault and content is not None else None,
        not_understood=_foreign(header, namespace),
    )
