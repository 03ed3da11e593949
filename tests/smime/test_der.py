"""The small DER writer against two other encoders."""

from __future__ import annotations

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


def test_only_one_module_knows_asn1crypto() -> None:
    from pathlib import Path

    folder = Path(asn1.__file__).parent
    assert [file.name for file in sorted(folder.glob("*.py")) if "asn1crypto import" in file.read_text()] == ["asn1.py"]
