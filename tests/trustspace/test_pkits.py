"""NIST PKITS (2011), as the `cryptography-vectors` package carries it: 405 certificates, their CRLs, our own verdicts.

The name of each end certificate says what RFC 5280 validation with the default settings of the suite (§4: any policy,
no explicit policy asked for) must answer: `Valid…` or `Invalid…`. Certificates named otherwise belong to policy tests
with several answers by the initial policy set, which our PathValidator does not offer: they are skipped by that name,
and counted. Every other skip is listed with its reason. `openssl verify` judges the same certificates as a witness.
"""

from __future__ import annotations

import contextlib
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustspace import Anchors, DistinguishedName, PathValidator, Usage, pem
from trustspace.claims import crl_issuers
from trustspace.dn import from_x509

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")  # PKITS 4.4.14
vectors = pytest.importorskip("cryptography_vectors")
FOLDER = Path(vectors.__file__).parent / "x509" / "PKITS_data"
AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
"""Inside the validity of the suite's valid certificates (2010 to 2030)."""

ROOT = "TrustAnchorRootCertificate"
_CA = "the end certificate is an authority: it suits no usage of ours (trustspace/verdict.py)"
STRICTER = {
    "ValidDSASignaturesTest4": "DSA is not accepted",
    "ValidDSAParameterInheritanceTest5": "DSA is not accepted (and this certificate cannot even be read)",
    "ValidonlyContainsCACertsTest13": _CA,
    "ValidpathLenConstraintTest8": _CA,
    "ValidpathLenConstraintTest14": _CA,
}
"""Valid by the suite, refused by us on purpose."""


OPENSSL_DIFFERS = {"ValidcRLIssuerTest30"}
"""Where OpenSSL 3.0 answers otherwise than the suite, and we answer as the suite: an indirect CRL's own issuer."""


def _names() -> list[str]:
    found = (path.stem.removesuffix("EE") for path in sorted((FOLDER / "certs").glob("*EE.crt")))
    return [name for name in found if name.startswith(("Valid", "Invalid"))]


@cache
def _certificates() -> dict[str, x509.Certificate]:
    """By file name. DSA keys that inherit their parameters cannot be read by `cryptography`: nothing trusts them."""
    found = {}
    for path in sorted((FOLDER / "certs").glob("*.crt")):
        with contextlib.suppress(pem.UnreadableFile):
            found[path.stem] = pem.read_certificates(path)[0]
    return found


@cache
def _crls() -> list[x509.CertificateRevocationList]:
    found = []
    for path in sorted((FOLDER / "crls").glob("*.crl")):
        with contextlib.suppress(pem.UnreadableFile):
            found.append(pem.read_crl(path))
    return found


def _signs_crls_only(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return usage.crl_sign and not usage.key_cert_sign


def _validator(end: x509.Certificate) -> PathValidator:
    """One anchor; every certificate that bears a name of the path, and every one that only signs CRLs; their CRLs."""
    certificates = _certificates()
    root = certificates[ROOT]
    authorities = [one for name, one in certificates.items() if not name.endswith("EE") and one != root]
    names: set[DistinguishedName] = set()
    waiting = [end]
    while waiting:
        new = crl_issuers(waiting.pop()) - names
        names |= new
        waiting += [one for one in authorities if from_x509(one.subject) in new]
    others = tuple(one for one in authorities if from_x509(one.subject) in names or _signs_crls_only(one))
    return PathValidator(Anchors((root,), others), _crls())


@pytest.mark.parametrize("name", _names())
def test_pkits(name: str) -> None:
    if name in STRICTER:
        pytest.skip(STRICTER[name])
    end = _certificates()[f"{name}EE"]
    verdict = _validator(end).check(end, at=AT, usage=Usage.SIGNATURE)
    assert verdict.trusted is name.startswith("Valid"), f"{verdict.reason} {verdict.failing_subject} {verdict.detail}"


def _openssl(end: x509.Certificate, folder: Path) -> bool:
    """`openssl verify` with the same anchor, authorities and CRLs, at the same moment."""
    validator = _validator(end)
    pem.write_public(folder / "root.pem", pem.chain_to_pem(validator.anchors.roots))
    pem.write_public(folder / "others.pem", pem.chain_to_pem(validator.anchors.intermediates))
    pem.write_public(folder / "end.pem", pem.chain_to_pem((end,)))
    relevant = validator._relevant_crls(end, (*validator.anchors.roots, *validator.anchors.intermediates))
    lists = b"".join(crl.public_bytes(Encoding.PEM) for crl, _ in relevant)
    pem.write_public(folder / "crls.pem", lists)
    command = [
        "openssl",
        "verify",
        "-attime",
        str(int(AT.timestamp())),
        "-crl_check_all",
        "-extended_crl",
        "-use_deltas",
    ]
    command += ["-CAfile", "root.pem", "-untrusted", "others.pem", "-CRLfile", "crls.pem", "end.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_openssl_agrees(tmp_path: Path) -> None:
    """The witness, on signatures, dates, names, revocation and constraints. Policies are left to the suite's own
    answers: `openssl verify` asks for an explicit policy as soon as it looks at policies at all."""
    names = [name for name in _names() if name not in STRICTER and "olicy" not in name]
    assert len(names) > 150
    ends = {name: _certificates()[f"{name}EE"] for name in names}
    differ = {name for name, end in ends.items() if _openssl(end, tmp_path) is not name.startswith("Valid")}
    assert sorted(differ) == sorted(OPENSSL_DIFFERS)
