"""The XML reader refuses what attacks a parser, before a tree exists, and raises one type of error."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihe import CdaError, EbrimError, SoapError, VihfError, XmlError, from_xml, parse_envelope, parse_xml, read_cda
from ihe.xml import XmlLimits, text_of, to_bytes
from tests.ihe.support import AT

LAUGHS = b"<!DOCTYPE a [" + b"".join(
    b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10 if i else b"lol") for i in range(12)
)
HOSTILE = {
    "xxe": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "parameter entity": b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x"> %p;]><a/>',
    "external dtd": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>',
    "billion laughs": LAUGHS + b"]><a>&l11;</a>",
    "laughs in an attribute": LAUGHS + b']><a b="&l11;"/>',
    "quadratic": b'<!DOCTYPE a [<!ENTITY x "' + b"y" * 100_000 + b'">]><a>' + b"&x;" * 10_000 + b"</a>",
    "deep": b"<a>" * 100_000,
    "attributes": b"<a " + b" ".join(b"a%d=''" % i for i in range(50_000)) + b"/>",
    "utf-16": '<?xml version="1.0" encoding="UTF-16"?><a/>'.encode("utf-16"),
    "utf-7 doctype": b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4-<a/>',
    "unknown entity": b"<a>&nbsp;</a>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_refused_by_every_reader_and_quickly(name: str) -> None:
    data = HOSTILE[name]
    start = time.perf_counter()
    with pytest.raises(XmlError):
        parse_xml(data)
    with pytest.raises(CdaError):
        read_cda(data)
    with pytest.raises(EbrimError):
        from_xml(data)
    with pytest.raises(SoapError):
        parse_envelope(data)
    assert time.perf_counter() - start < 2


def test_the_codes_say_which_bound_was_passed() -> None:
    for data, limits, code in (
        (b"<a><a><a/></a></a>", XmlLimits(depth=2), "xml-depth"),
        (b"<a><b/><b/><b/></a>", XmlLimits(elements=3), "xml-elements"),
        (b"<a b='' c=''/>", XmlLimits(attributes=1), "xml-attributes"),
        (b"<aaaaaaaaaaa/>", XmlLimits(size=5), "xml-size"),
        (b"<!DOCTYPE a><a/>", XmlLimits(), "xml-doctype"),
        (b"<a>\xff</a>", XmlLimits(), "xml-encoding"),
        (b"<?xml version='1.0' encoding='latin-1'?><a/>", XmlLimits(), "xml-encoding"),
        (b"<a>" * 200 + b"</a>" * 200, XmlLimits(), "xml-depth"),
        (b"<a>" * 300 + b"</a>" * 300, XmlLimits(), "xml-depth"),
    ):
        with pytest.raises(XmlError) as error:
            parse_xml(data, limits)
        assert error.value.code == code


def test_a_large_text_node_is_read() -> None:
    text = b"A" * (12 * 1024 * 1024)
    assert len(text_of(parse_xml(b"<a>" + text + b"</a>"))) == len(text)


def test_a_comment_does_not_cut_a_value() -> None:
    assert text_of(parse_xml(b"<a>8999<!-- x -->0001<b/>9</a>")) == "899900019"


@given(st.binary(max_size=300) | st.text(alphabet="<>/a&;!-[]?\"'= x", max_size=120).map(str.encode))
def test_any_bytes_give_a_tree_or_an_xml_error(data: bytes) -> None:
    try:
        parse_xml(data)
    except XmlError as error:
        assert error.code.startswith("xml-")


SHAPES = st.recursive(
    st.sampled_from(["", "text", "=", "&lt;", "<!-- < = xmlns -->", "<![CDATA[<b a=''>]]>", "<?p < ?>"]),
    lambda inner: st.builds(
        "<a {}>{}</a>".format,
        st.sampled_from(["", "b='=='", "b='' c=\"'>\" d='/>'", "xmlns:n='u'", "xmlns:n='u' xmlns:m='v' n:o='1'"]),
        st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=25,
)
DECLARATIONS = st.sampled_from(
    ["", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='utf-8'?>", "<?xml version='1.0' encoding='UTF-16'?>"]
)


@given(DECLARATIONS, SHAPES, st.integers(1, 6), st.integers(1, 12), st.integers(1, 3), st.integers(0, 3))
def test_the_short_way_decides_as_the_long_one(
    declaration: str, shape: str, depth: int, elements: int, attributes: int, namespaces: int
) -> None:
    data = (declaration + f"<r>{shape}</r>").encode()
    limits = XmlLimits(depth=depth, elements=elements, attributes=attributes, namespaces=namespaces)

    def said() -> bytes | str:
        try:
            return to_bytes(parse_xml(data, limits))
        except XmlError as error:
            return error.code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ihe.xml._SMALL", 0)
        long = said()
    assert said() == long


def test_the_vihf_reader_uses_it_too() -> None:
    from ihe import verify_vihf

    for data in HOSTILE.values():
        with pytest.raises(VihfError) as error:
            verify_vihf(data, at=AT)
        assert error.value.code.startswith("xml-")


def test_namespaces_in_scope_are_bounded_and_counted_by_scope() -> None:
    def declared(count: int) -> str:
        return " ".join(f'xmlns:n{number}="urn:n"' for number in range(count))

    with pytest.raises(XmlError) as error:
        parse_xml(f"<a {declared(60)}><b {declared(60)}/></a>".encode())
    assert error.value.code == "xml-namespaces"
    siblings = f"<b {declared(60)}/>" * 50
    assert len(parse_xml(f"<a>{siblings}</a>".encode())) == 50
