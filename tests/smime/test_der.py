"""The small DER writer against two other encoders."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat import asn1 as witness
from hypothesis import given
from hypothesis import strategies as st

from smime import asn1, ber, der


@given(st.integers(-(2**200), 2**200))
def test_integers(value: int) -> None:
    encoded = der.integer(value)
    assert int.from_bytes(encoded[2:], "big", signed=True) == value
    assert value < -(2**63) or value >= 2**63 or witness.encode_der(value) == encoded


@given(st.binary(max_size=70_000))
def test_octets(value: bytes) -> None:
    assert witness.encode_der(value) == der.octets(value)
    ber.check(der.sequence(der.octets(value), der.NULL))


@pytest.mark.parametrize("dotted", ["1.2.840.113549.1.7.2", "2.16.840.1.101.3.4.1.42", "1.3.14.3.2.26", "2.5.4.3"])
def test_object_identifiers(dotted: str) -> None:
    assert witness.encode_der(x509.ObjectIdentifier(dotted)) == der.oid(dotted)


def test_times_and_sets() -> None:
    assert der.time(datetime(2026, 11, 20, 10, 0, 0, 5, tzinfo=UTC)) == b"\x17\x0d261120100000Z"
    assert der.time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"
    assert der.set_of(b"\x04\x01b", b"\x04\x01a") == b"\x31\x06\x04\x01a\x04\x01b"


@pytest.mark.parametrize(
    ("tag", "text", "moment"),
    [
        (0x17, b"261120100000Z", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        (0x17, b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (0x17, b"2611201000Z", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        (0x17, b"261120110000+0100", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        (0x18, b"20500101003000-0130", datetime(2050, 1, 1, 2, tzinfo=UTC)),
    ],
)
def test_times_are_read(tag: int, text: bytes, moment: datetime) -> None:
    assert der.read_time(tag, text) == moment


@given(st.sampled_from([0x17, 0x18, 0x04]), st.binary(max_size=20))
def test_any_octets_are_a_time_or_a_value_error(tag: int, text: bytes) -> None:
    with contextlib.suppress(ValueError, OverflowError):
        assert der.read_time(tag, text).tzinfo is not None


@given(st.binary(max_size=30))
def test_object_identifiers_are_read_back(contents: bytes) -> None:
    with contextlib.suppress(ValueError):
        dotted = der.read_oid(contents)
        assert all(part.isdigit() for part in dotted.split("."))


def test_known_object_identifiers_are_read_back() -> None:
    for dotted in ("1.2.840.113549.1.7.2", "2.16.840.1.101.3.4.1.42", "2.999.3", "0.9.2342"):
        assert der.read_oid(der.oid(dotted)[2:]) == dotted


def indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, 0x80)) + b"".join(contents) + b"\0\0"


@given(st.recursive(st.binary(max_size=5), lambda inner: st.lists(inner, max_size=4), max_leaves=20))
def test_indefinite_lengths_become_definite_ones(tree: object) -> None:
    """The same tree written both ways is the same octets once definite."""

    def write(node: object, endless: bool) -> bytes:
        if isinstance(node, bytes):
            return der.octets(node)
        assert isinstance(node, list)
        parts = [write(item, endless) for item in node]
        return indefinite(0x30, *parts) if endless else der.sequence(*parts)

    assert ber.definite(write([tree], True)) == write([tree], False)
    assert ber.definite(write([tree], False)) == write([tree], False)


def test_only_one_module_knows_asn1crypto() -> None:
    from pathlib import Path

    folder = Path(asn1.__file__).parent
    assert [file.name for file in sorted(folder.glob("*.py")) if "asn1crypto import" in file.read_text()] == ["asn1.py"]
