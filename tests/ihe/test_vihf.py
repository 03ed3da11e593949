"""The VIHF: xmlsec1 agrees with what we sign, and no form of tampering or wrapping passes the verifier."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.algorithms import CanonicalizationMethod
from signxml.signer import XMLSigner
from signxml.verifier import SignatureConfiguration, XMLVerifier

from ihe import Code, Vihf, VihfContent, VihfError, VihfSettings, build_request, build_vihf, parse_envelope, verify_vihf
from tests.ihe.support import AT, signer

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
DS = "http://www.w3.org/2000/09/xmldsig#"
INS = "185057800608491"
CONTENT = VihfContent(
    name_id="899900000019",
    subject_name="Alice EXEMPLE",
    roles=(
        Code("10", "1.2.250.1.71.1.2.7", "Médecin"),
        Code("SM54", "1.2.250.1.71.4.2.5", "Médecine générale (SM)"),
    ),
    structure_id="1990000011",
    sector="SA01",
    ins=INS,
    ins_oid="1.2.250.1.213.1.4.10",
    authenticated_at=AT - timedelta(seconds=30),
)


def assertion(settings: VihfSettings | None = None) -> bytes:
    key, certificate = signer()
    return build_vihf(CONTENT, key=key, chain=[certificate], assertion_id="_a1", at=AT, settings=settings)


def refusal(data: bytes) -> str:
    with pytest.raises(VihfError) as error:
        verify_vihf(data, at=AT)
    assert INS not in f"{error.value}{error.value.french}"
    return error.value.code


def check(found: Vihf) -> None:
    assert (found.name_id, found.subject_name, found.structure_id) == ("899900000019", "Alice EXEMPLE", "1990000011")
    assert (found.sector, found.mode, found.version, found.resource_urn) == ("SA01", "INDIRECTE", "3.0", "urn:dmp")
    assert found.roles == CONTENT.roles and found.purpose.code == "normal"
    assert (found.patient.extension, found.patient.root) == (INS, "1.2.250.1.213.1.4.10")
    assert found.issued_at == AT and found.authenticated_at == CONTENT.authenticated_at
    assert found.certificate == signer()[1]
    assert found.issuer.startswith("CN=TEST SIGN,OU=1990000011,O=") and found.issuer.endswith(",C=FR")


def test_a_vihf_says_who_acts_for_whom() -> None:
    found = verify_vihf(assertion(), at=AT)
    check(found)
    assert INS not in repr(found)
    with pytest.raises(TypeError):
        bool(found)


def test_it_survives_the_envelope() -> None:
    data = build_request(
        b'<a xmlns="urn:x"/>', action="urn:a", message_id="urn:uuid:1", to="https://x", assertion=assertion()
    )
    (carried,) = parse_envelope(data).assertions
    check(verify_vihf(carried, at=AT))


def test_the_signature_stands_right_after_issuer() -> None:
    tags = [etree.QName(child).localname for child in etree.fromstring(assertion())]
    assert tags == ["Issuer", "Signature", "Subject", "AuthnStatement", "AttributeStatement"]


def test_the_contested_points_are_settings() -> None:
    data = assertion(VihfSettings(version="4.0", mode_attribute="Authentification_mode", software_id="ID1"))
    assert b'Name="Authentification_mode"' in data and b'Name="LPS_ID"' in data
    found = verify_vihf(data, at=AT)
    assert (found.version, found.mode) == ("4.0", "INDIRECTE")


def test_xmlsec1_agrees(tmp_path: Path) -> None:
    (tmp_path / "vihf.xml").write_bytes(assertion())
    (tmp_path / "signer.pem").write_bytes(signer()[1].public_bytes(Encoding.PEM))
    command = [
        "xmlsec1",
        "--verify",
        "--id-attr:ID",
        f"{SAML}:Assertion",
        "--trusted-pem",
        str(tmp_path / "signer.pem"),
    ]
    command += ["--verification-gmt-time", AT.strftime("%Y-%m-%d %H:%M:%S"), str(tmp_path / "vihf.xml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0 and "1/1" in result.stderr, result.stderr


def signxml_signed(root: etree._Element, **options: object) -> bytes:
    """The assertion of `root`, its signature made by signxml instead of ours."""
    key, certificate = signer()
    own = root.find(f"{{{DS}}}Signature")
    assert own is not None
    for child in list(own):
        own.remove(child)
    own.set("Id", "placeholder")
    maker = XMLSigner(c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0)
    arguments = {"key": key, "cert": [certificate], "reference_uri": "_a1", "id_attribute": "ID", **options}
    return etree.tostring(maker.sign(root, **arguments))  # type: ignore[arg-type]


def test_signxml_and_ours_verify_each_other() -> None:
    configuration = SignatureConfiguration(location="./", expect_references=1)
    result = XMLVerifier().verify(assertion(), x509_cert=signer()[1], id_attribute="ID", expect_config=configuration)
    assert not isinstance(result, list) and result.signed_xml is not None
    assert INS in etree.tostring(result.signed_xml, encoding="unicode")
    check(verify_vihf(signxml_signed(etree.fromstring(assertion())), at=AT))
    spaced = etree.fromstring(assertion().replace(b"</ds:Signature>", b"</ds:Signature>\n  <!-- x -->\n"))
    check(verify_vihf(signxml_signed(spaced), at=AT))
    prefixed = signxml_signed(etree.fromstring(assertion()), inclusive_ns_prefixes=["xsi", "saml2"])
    assert b"PrefixList" in prefixed
    check(verify_vihf(prefixed, at=AT))
    with_text = signxml_signed(etree.fromstring(assertion())).replace(b"</ds:Signature>", b"</ds:Signature>ajout")
    assert refusal(with_text) == "signature"


def test_it_is_written_in_canonical_form() -> None:
    odd = replace(CONTENT, subject_name="A & B <C> \"d\" 'e' > é \t")
    key, certificate = signer()
    made = build_vihf(odd, key=key, chain=[certificate], assertion_id="_a1", at=AT)
    root = etree.fromstring(made)
    # SignedInfo repeats its namespace, so that its own text is its canonical form.
    alone = made.replace(f'<ds:SignedInfo xmlns:ds="{DS}"'.encode(), b"<ds:SignedInfo")
    assert etree.tostring(root, method="c14n", exclusive=True) == alone
    assert verify_vihf(made, at=AT).subject_name == odd.subject_name.strip()
    with pytest.raises(VihfError):
        build_vihf(CONTENT, key=key, chain=[certificate], assertion_id='a"b', at=AT)


@pytest.mark.parametrize(
    "inside",
    [
        "<ds:SignedInfo/>",
        "<ds:SignatureValue>AAAA</ds:SignatureValue>",
    ],
)
def test_a_signature_with_a_second_part_is_refused(inside: str) -> None:
    data = assertion()
    for place in (b"<ds:SignedInfo", b"<ds:KeyInfo"):
        changed = data.replace(place, f"{inside.replace('/>', f' xmlns:ds={DS!r}/>')}".encode() + place, 1)
        assert refusal(changed) in ("signature", "signature-place")


@pytest.mark.parametrize(
    "change",
    [
        (b"Alice EXEMPLE", b"Mallory"),
        (INS.encode(), b"185057800608492"),
        (b'code="SM54"', b'code="SM53"'),
        (b"INDIRECTE", b"DIRECTE"),
        (b"2026-03-01T10:00:00.000Z", b"2026-03-01T10:00:01.000Z"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
    ],
)
def test_a_changed_value_is_seen(change: tuple[bytes, bytes]) -> None:
    data = assertion()
    assert change[0] in data
    assert refusal(data.replace(*change)) == "signature"


@pytest.mark.parametrize("offset", [timedelta(minutes=30), timedelta(minutes=-30)])
def test_an_old_or_future_assertion_is_refused(offset: timedelta) -> None:
    with pytest.raises(VihfError) as error:
        verify_vihf(assertion(), at=AT + offset)
    assert error.value.code == "expired"


def _forged() -> etree._Element:
    """The honest assertion, with another patient and another ID."""
    root = etree.fromstring(assertion().replace(INS.encode(), b"999999999999999"))
    root.set("ID", "_evil")
    return root


def test_wrapping_the_signed_assertion_inside_another_is_refused() -> None:
    for holder in (f"{{{DS}}}Object", f"{{{SAML}}}Advice", "extension"):
        forged = _forged()
        honest = etree.fromstring(assertion())
        signature = honest.find(f"{{{DS}}}Signature")
        own = forged.find(f"{{{DS}}}Signature")
        assert own is not None and signature is not None
        forged.replace(own, signature)
        etree.SubElement(signature if "Object" in holder else forged, holder).append(honest)
        assert refusal(etree.tostring(forged)) == "signature-place"


def test_a_signature_over_a_fragment_is_refused() -> None:
    root = etree.fromstring(assertion())
    reference = root.find(f".//{{{DS}}}Reference")
    assert reference is not None
    for uri in ("", "#_other", "#xpointer(/)", "http://127.0.0.1/x"):
        reference.set("URI", uri)
        assert refusal(etree.tostring(root)) == "signature-place"


def test_two_elements_with_the_same_id_are_refused() -> None:
    root = etree.fromstring(assertion())
    subject = root.find(f"{{{SAML}}}Subject")
    assert subject is not None
    subject.set("ID", "_a1")
    assert refusal(etree.tostring(root)) == "signature-place"


def test_no_signature_or_two_or_elsewhere_is_refused() -> None:
    for action in ("remove", "double", "move"):
        root = etree.fromstring(assertion())
        signature = root.find(f"{{{DS}}}Signature")
        assert signature is not None
        if action == "double":
            root.insert(2, etree.fromstring(etree.tostring(signature)))
        else:
            root.remove(signature)
        if action == "move":
            root.append(signature)
        assert refusal(etree.tostring(root)) == "signature-place"


def test_other_transforms_are_refused() -> None:
    root = etree.fromstring(assertion())
    transform = root.findall(f".//{{{DS}}}Transform")[1]
    transform.set("Algorithm", "http://www.w3.org/TR/1999/REC-xslt-19991116")
    assert refusal(etree.tostring(root)) == "transforms"


def test_a_weak_algorithm_or_a_shared_secret_is_refused() -> None:
    for algorithm in (f"{DS}rsa-sha1", f"{DS}hmac-sha1", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"):
        root = etree.fromstring(assertion())
        method = root.find(f".//{{{DS}}}SignatureMethod")
        assert method is not None
        method.set("Algorithm", algorithm)
        assert refusal(etree.tostring(root)) == "signature"


def test_a_missing_certificate_is_refused() -> None:
    root = etree.fromstring(assertion())
    data = root.find(f".//{{{DS}}}X509Certificate")
    assert data is not None
    data.text = "AAAA"
    assert refusal(etree.tostring(root)) == "certificate"


def test_a_comment_in_a_value_changes_nothing() -> None:
    data = assertion().replace(b"899900000019</saml2:NameID>", b"8999<!-- x -->00000019</saml2:NameID>")
    assert verify_vihf(data, at=AT).name_id == "899900000019"


def test_not_an_assertion() -> None:
    assert refusal(b"<a/>") == "not-an-assertion"


def test_signing_and_verifying_log_no_identity(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        verify_vihf(assertion(), at=AT)
    assert INS not in caplog.text
