"""What the tests of the codecs share: where public samples are, a practice key, a sample report, schemas as oracles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from lxml import etree

from ihe import Submission, entry_from_cda, lot, read_cda
from ihe.samples import make_crh_n1, synthetic_author, synthetic_patient, synthetic_structure

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
AT = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
PARIS = timezone(timedelta(hours=1))
AUTHOR = synthetic_author("899900000019", "EXEMPLE", "Alice")
STRUCTURE = synthetic_structure("1990000011", "HOPITAL DE TEST")
PDF = b"%PDF-1.4 not a real one, which the header does not care about"


def samples(folder: str) -> Path:
    """A folder of public samples, beside the repository; the test skips when it is not there."""
    path = SAMPLES / folder
    if not path.is_dir():
        pytest.skip(f"public samples not available: {folder}")
    return path


@cache
def signer() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A self-signed practice certificate, with the RDNs of an organisation's certificate."""
    key = rsa.generate_private_key(65537, 2048)
    attributes = (
        (NameOID.COUNTRY_NAME, "FR"),
        (NameOID.STATE_OR_PROVINCE_NAME, "Paris (75)"),
        (NameOID.ORGANIZATION_NAME, "HOPITAL, DE TEST"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "1990000011"),
        (NameOID.COMMON_NAME, "TEST SIGN"),
    )
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(77).not_valid_before(AT - timedelta(days=1)).not_valid_after(AT + timedelta(days=900))
    )
    return key, builder.sign(key, hashes.SHA256())


def report(seed: int = 1, *, pdf: bytes = PDF, replaces: str = "") -> bytes:
    """A synthetic hospital report, level 1."""
    at = AT.astimezone(PARIS)
    return make_crh_n1(synthetic_patient(seed), AUTHOR, STRUCTURE, at=at, pdf=pdf, replaces=replaces)


def submission_of(content: bytes, *, replaces: dict[str, str] | None = None) -> Submission:
    """A lot of one document."""
    header = read_cda(content)
    entry = entry_from_cda(header, content, visibility_codes=("INVISIBLE_PATIENT",))
    return lot(
        header,
        [entry],
        unique_id="1.2.250.1.999.1.1.20001.7.1",
        source_id="1.2.250.1.999.1.1.20001",
        author=entry.authors[0],
        at=AT,
        title="Lot automatique",
        replaces=replaces,
    )


class _XmlXsd(etree.Resolver):
    """`xds/rim.xsd` imports `xml.xsd` by a bare name; the one of the CDA schemas is used."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def resolve(self, system_url: str, public_id: str, context: Any = None) -> Any:
        if system_url.endswith("xml.xsd"):
            # lxml passes the context that its own resolve_filename wants; the stubs know neither.
            return self.resolve_filename(str(self._target), context)  # type: ignore[attr-defined]
        return None


@cache
def xds_schema() -> etree.XMLSchema:
    """The XDS.b and ebRIM 3.0 schemas."""
    folder = samples("schemas")
    parser = etree.XMLParser()
    parser.resolvers.add(_XmlXsd(folder / "cda" / "schema" / "xml.xsd"))
    return etree.XMLSchema(etree.parse(str(folder / "xds" / "XDS.b_DocumentRepository.xsd"), parser))


@cache
def cda_schema() -> etree.XMLSchema:
    """The CDA R2 schema with the French extensions."""
    return etree.XMLSchema(etree.parse(str(samples("schemas") / "cda" / "CDA_extended.xsd")))
