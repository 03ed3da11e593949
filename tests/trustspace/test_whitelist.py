"""The white list: what is accepted, what is set aside, what is refused."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from lxml import etree

from tests.trustspace.conftest import AT, sample
from trustspace import (
    Anchors,
    Issued,
    ListedDomain,
    ListRefusal,
    PracticeAuthority,
    WhiteList,
    WhiteListRefused,
    load_white_list,
    read_certificates,
    read_crl,
)
from trustspace.dn import parse
from trustspace.issuing import build_crl
from trustspace.listshape import MAX_LIST_SIZE
from trustspace.pem import crl_files
from trustspace.signing import DS_NAMESPACE, LIST_NAMESPACE, sign_white_list

CN = "alb.practice"
DS = f"{{{DS_NAMESPACE}}}"
LB = f"{{{LIST_NAMESPACE}}}"


def anchors_of(authority: PracticeAuthority) -> Anchors:
    return Anchors(authority.anchors, authority.intermediates)


def crls_of(authority: PracticeAuthority) -> list[x509.CertificateRevocationList]:
    return [read_crl(path) for path in crl_files(authority.folder / "crl")]


def load(authority: PracticeAuthority, xml: bytes) -> WhiteList:
    return load_white_list(xml, anchors=anchors_of(authority), signer_cn=CN)


def refusal(authority: PracticeAuthority, xml: bytes) -> ListRefusal:
    with pytest.raises(WhiteListRefused) as caught:
        load(authority, xml)
    return caught.value.code


def test_the_real_list_verifies_up_to_the_real_root() -> None:
    xml = sample("whitelist/listeblanchemssante-2025-02-28.xml").read_bytes()
    authorities = sample("igc-sante")
    anchors = Anchors(
        read_certificates(authorities / "ACR_ELEMENTAIRE_20130625.cer"),
        read_certificates(authorities / "AC_ELEMENTAIRE_ORGANISATIONS_20130625.cer"),
    )
    start = time.perf_counter()
    white_list = load_white_list(xml, anchors=anchors, signer_cn="alb.mssante.fr")
    elapsed = time.perf_counter() - start
    assert (len(white_list.entries), len(white_list.names)) == (6494, 4944)
    assert len({entry.operator_dn for entry in white_list.entries}) == 391
    assert white_list.problems == ()
    assert white_list.generated == datetime(2025, 2, 28, 15, 42, 7, tzinfo=UTC)
    assert white_list.is_listed("PATIENT.mssante.fr")
    assert not white_list.is_listed("mssante.fr")
    assert elapsed < 3, f"{elapsed:.2f} s"
    with pytest.raises(WhiteListRefused) as caught:
        load_white_list(xml, anchors=anchors, signer_cn="alb.mssante.fr", at=datetime(2026, 9, 1, tzinfo=UTC))
    assert caught.value.code is ListRefusal.SIGNER_UNTRUSTED
    with pytest.raises(WhiteListRefused):
        load_white_list(xml.replace(b"1001-services", b"1002-services", 1), anchors=anchors, signer_cn="alb.mssante.fr")


def test_the_other_range_does_not_sign_the_list() -> None:
    xml = sample("whitelist/listeblanchemssante-2025-02-28.xml").read_bytes()
    authorities = sample("igc-sante")
    anchors = Anchors(
        read_certificates(authorities / "ACR_FORT_20130625.cer"),
        read_certificates(authorities / "AC_ELEMENTAIRE_ORGANISATIONS_20130625.cer"),
    )
    with pytest.raises(WhiteListRefused) as caught:
        load_white_list(xml, anchors=anchors, signer_cn="alb.mssante.fr")
    assert caught.value.code is ListRefusal.SIGNER_UNTRUSTED


def test_a_practice_list_is_read(authority: PracticeAuthority, server: Issued, white_list: bytes) -> None:
    loaded = load(authority, white_list)
    assert loaded.names["hopital-a.mssante.example"] == {parse(server.certificate.subject.rfc4514_string())}
    assert loaded.generated == AT
    assert loaded.signer == authority.list_signer


def test_xmlsec1_accepts_what_we_sign(authority: PracticeAuthority, white_list: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list.xml"

    def verify(content: bytes) -> int:
        path.write_bytes(content)
        command = ["xmlsec1", "--verify", "--verification-gmt-time", "2026-03-02 09:30:00"]
        for option, name in (
            ("--trusted-pem", "anchors/TEST-ACR-EL"),
            ("--untrusted-pem", "intermediates/TEST-ACI-EL-ORG"),
        ):
            command += [option, str(authority.folder / f"{name}.pem")]
        return subprocess.run([*command, str(path)], capture_output=True, check=False).returncode

    assert verify(white_list) == 0
    assert verify(white_list.replace(b"hopital-a.mssante", b"hopital-z.mssante")) != 0


def rewritten(authority: PracticeAuthority, edit: Callable[[etree._Element], None]) -> bytes:
    """A list whose content was edited before the rightful signer signed it."""
    from signxml.algorithms import CanonicalizationMethod
    from signxml.signer import XMLSigner

    signer = authority._signer
    entries = [ListedDomain.of(f"d{index}.mssante.example", signer.certificate) for index in range(4)]
    root = etree.fromstring(sign_white_list(entries, at=AT, key=signer.key, certificate=signer.certificate))
    root.remove(root[-1])
    edit(root)
    xml_signer = XMLSigner(c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0)
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = signer.certificate.public_bytes(Encoding.PEM).decode()
    return etree.tostring(xml_signer.sign(root, key=signer.key, cert=certificate))


def _set(element: etree._Element, field: str, text: str) -> None:
    child = element.find(LB + field)
    assert child is not None
    child.text = text


def test_malformed_entries_are_set_aside_and_reported(authority: PracticeAuthority) -> None:
    def edit(root: etree._Element) -> None:
        first, second, third, fourth = root[1]
        _set(first, "Nom", "not a domain")
        _set(second, "DNCertificatOperateur", "nonsense")
        third.append(etree.fromstring(f'<Nom xmlns="{LIST_NAMESPACE}">twice.mssante.example</Nom>'))
        _set(fourth, "DateMAJ", "hier")
        etree.SubElement(root[1], LB + "Surprise")

    loaded = load(authority, rewritten(authority, edit))
    assert set(loaded.names) == {"d3.mssante.example"}
    assert [problem.position for problem in loaded.problems] == [1, 2, 3, 4, 5]
    assert loaded.entries[0].updated is None


def test_what_people_type_is_tolerated(authority: PracticeAuthority) -> None:
    def edit(root: etree._Element) -> None:
        first, second, third, fourth = root[1]
        _set(first, "Nom", " CHU-Example.MSSANTE.example\n")
        _set(second, "Nom", "hôpital.mssante.example")
        for entry in (third, fourth):
            _set(entry, "Nom", "double.mssante.example")
            _set(entry, "DNCertificatOperateur", "CN=a, OU=1, O=B, L=Paris (75), C=FR")

    loaded = load(authority, rewritten(authority, edit))
    assert set(loaded.names) == {
        "chu-example.mssante.example",
        "hôpital.mssante.example".encode("idna").decode(),
        "double.mssante.example",
    }
    assert len(loaded.entries) == 4 and not loaded.problems
    assert loaded.is_listed("Hôpital.mssante.example.")
    assert loaded.names["double.mssante.example"] == {parse("CN=a,OU=1,O=B,L=Paris (75),C=FR")}


@pytest.mark.parametrize("date", ["", "2026-03-02", "2026-03-02T09:00:00+01:00", "demain"])
def test_the_date_of_the_list_is_strict(authority: PracticeAuthority, date: str) -> None:
    def edit(root: etree._Element) -> None:
        _set(root, "DateDeGeneration", date)

    assert refusal(authority, rewritten(authority, edit)) is ListRefusal.STRUCTURE


def test_a_list_without_a_usable_entry_is_refused(authority: PracticeAuthority) -> None:
    assert refusal(authority, rewritten(authority, lambda root: root[1].clear())) is ListRefusal.STRUCTURE


def test_a_comment_cannot_cut_a_name(authority: PracticeAuthority, white_list: bytes) -> None:
    """Comments are outside the signature (canonicalisation drops them): they must not change what is read."""
    cut = white_list.replace(b"<Nom>hopital-a.mssante", b"<Nom>hopital-a<!-- x -->.mssante")
    assert cut != white_list
    assert set(load(authority, cut).names) == set(load(authority, white_list).names)


def test_another_signer_is_refused(authority: PracticeAuthority, foreign: PracticeAuthority, white_list: bytes) -> None:
    entries = [ListedDomain.of("evil.mssante.example", authority.list_signer)]
    assert refusal(authority, foreign.publish_white_list(entries, AT)) is ListRefusal.SIGNER_UNTRUSTED

    other = authority.issue_organisation(
        "alb.other", "AUTRE", "1750000018", "Paris (75)", usage="smime", email="a@b.example", at=AT
    )
    signed = sign_white_list(entries, at=AT, key=other.key, certificate=other.certificate)
    assert refusal(authority, signed) is ListRefusal.SIGNER

    lying = sign_white_list(entries, at=AT, key=other.key, certificate=authority.list_signer)
    assert refusal(authority, lying) is ListRefusal.SIGNATURE_INVALID

    server = authority.issue_server(CN, "AUTRE", "1750000018", "Paris (75)", at=AT)
    signed = sign_white_list(entries, at=AT, key=server.key, certificate=server.certificate)
    assert refusal(authority, signed) is ListRefusal.SIGNER_UNTRUSTED

    old = sign_white_list(
        entries, at=AT - timedelta(days=2), key=authority._signer.key, certificate=authority.list_signer
    )
    assert refusal(authority, old) is ListRefusal.SIGNER_UNTRUSTED
    assert load(authority, white_list).problems == ()


def test_a_revoked_signer_is_refused_when_a_crl_is_there(fresh: PracticeAuthority) -> None:
    xml = fresh.publish_white_list([ListedDomain.of("a.mssante.example", fresh.list_signer)], AT)
    anchors = anchors_of(fresh)
    good = load_white_list(xml, anchors=anchors, signer_cn=CN, crls=crls_of(fresh))
    assert good.is_listed("a.mssante.example")
    with pytest.raises(WhiteListRefused) as caught:
        late = AT + timedelta(days=31)
        load_white_list(xml, anchors=anchors, signer_cn=CN, crls=crls_of(fresh), revocation_at=late)
    assert caught.value.code is ListRefusal.SIGNER_UNTRUSTED
    fresh.revoke(fresh.list_signer, AT + timedelta(days=1))
    with pytest.raises(WhiteListRefused) as caught:
        late = AT + timedelta(days=2)
        load_white_list(xml, anchors=anchors, signer_cn=CN, crls=crls_of(fresh), revocation_at=late)
    assert caught.value.code is ListRefusal.SIGNER_REVOKED


def test_a_signer_revoked_at_a_later_date_is_refused_already(fresh: PracticeAuthority) -> None:
    """Who holds a revoked key can write any date into a list: the date of revocation does not help it."""
    xml = fresh.publish_white_list([ListedDomain.of("a.mssante.example", fresh.list_signer)], AT)
    issuer = fresh._authorities["TEST-ACI-EL-ORG"]
    crl = build_crl(issuer, [(fresh.list_signer.serial_number, AT + timedelta(days=5))], AT, 30, 9)
    with pytest.raises(WhiteListRefused) as caught:
        load_white_list(xml, anchors=anchors_of(fresh), signer_cn=CN, crls=[crl])
    assert caught.value.code is ListRefusal.SIGNER_REVOKED


def _wrap_in_new_root(root: etree._Element, evil: etree._Element) -> etree._Element:
    evil.append(root)
    return evil


def _original_in_object(root: etree._Element, evil: etree._Element) -> etree._Element:
    signature = root[-1]
    root.remove(signature)
    etree.SubElement(signature, DS + "Object").append(root)
    evil.append(signature)
    return evil


def _signature_stolen(root: etree._Element, evil: etree._Element) -> etree._Element:
    evil.append(root[-1])
    return evil


def _signature_first(root: etree._Element, evil: etree._Element) -> etree._Element:
    root.insert(0, root[-1])
    return root


def _signature_deeper(root: etree._Element, evil: etree._Element) -> etree._Element:
    root[1].append(root[-1])
    return root


def _two_signatures(root: etree._Element, evil: etree._Element) -> etree._Element:
    root.append(etree.fromstring(etree.tostring(root[-1])))
    return root


def _added_entry(root: etree._Element, evil: etree._Element) -> etree._Element:
    root[1].append(evil[1][0])
    return root


def _added_key_value(root: etree._Element, evil: etree._Element) -> etree._Element:
    key_info = root.find(f".//{DS}KeyInfo")
    assert key_info is not None
    etree.SubElement(key_info, DS + "KeyValue")
    return root


def _reference_by_id(root: etree._Element, evil: etree._Element) -> etree._Element:
    root[1].set("Id", "list")
    reference = root.find(f".//{DS}Reference")
    assert reference is not None
    reference.set("URI", "#list")
    return root


def _extra_transform(root: etree._Element, evil: etree._Element) -> etree._Element:
    transforms = root.find(f".//{DS}Transforms")
    assert transforms is not None
    transforms.insert(0, etree.Element(DS + "Transform", Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"))
    return root


def _algorithm(name: str, uri: str) -> Callable[[etree._Element, etree._Element], etree._Element]:
    def change(root: etree._Element, evil: etree._Element) -> etree._Element:
        element = root.find(f".//{DS}{name}")
        assert element is not None
        element.set("Algorithm", uri)
        return root

    return change


def _unsigned(root: etree._Element, evil: etree._Element) -> etree._Element:
    root.remove(root[-1])
    return root


def _xsw_sibling_before(root: etree._Element, evil: etree._Element) -> etree._Element:
    """The evil list first, the signed one kept as a child before the signature."""
    signature = root[-1]
    root.remove(signature)
    evil.append(root)
    evil.append(signature)
    return evil


def _xsw_sibling_after(root: etree._Element, evil: etree._Element) -> etree._Element:
    signature = root[-1]
    root.remove(signature)
    evil.append(signature)
    evil.append(root)
    return evil


def _xsw_in_signature_value(root: etree._Element, evil: etree._Element) -> etree._Element:
    signature = root[-1]
    root.remove(signature)
    signature[1].append(root)
    evil.append(signature)
    return evil


def _xsw_in_key_info(root: etree._Element, evil: etree._Element) -> etree._Element:
    signature = root[-1]
    root.remove(signature)
    signature[2].append(root)
    evil.append(signature)
    return evil


def _xsw_in_extension(root: etree._Element, evil: etree._Element) -> etree._Element:
    signature = root[-1]
    root.remove(signature)
    etree.SubElement(evil[1], LB + "Extensions").append(root)
    evil.append(signature)
    return evil


def _xsw_by_id(root: etree._Element, evil: etree._Element) -> etree._Element:
    """Reference to the id that both the signed list and the evil one bear."""
    signature = root[-1]
    root.remove(signature)
    for one in (root, evil):
        one.set("Id", "liste")
    reference = signature.find(f".//{DS}Reference")
    assert reference is not None
    reference.set("URI", "#liste")
    etree.SubElement(signature, DS + "Object").append(root)
    evil.append(signature)
    return evil


def _second_reference(root: etree._Element, evil: etree._Element) -> etree._Element:
    reference = root.find(f".//{DS}Reference")
    assert reference is not None
    reference.addnext(etree.fromstring(etree.tostring(reference)))
    return root


def _second_certificate(root: etree._Element, evil: etree._Element) -> etree._Element:
    held = root.find(f".//{DS}X509Certificate")
    assert held is not None
    held.addnext(etree.fromstring(etree.tostring(held)))
    return root


def _signature_in_list(root: etree._Element, evil: etree._Element) -> etree._Element:
    """A second signature, inside an entry."""
    root[1][0].append(etree.fromstring(etree.tostring(root[-1])))
    return root


def _two_lists(root: etree._Element, evil: etree._Element) -> etree._Element:
    root.insert(1, evil[1])
    return root


def _two_dates(root: etree._Element, evil: etree._Element) -> etree._Element:
    root.insert(0, evil[0])
    return root


WRAPPINGS = [
    (_xsw_sibling_before, ListRefusal.SIGNATURE_INVALID),
    (_xsw_sibling_after, ListRefusal.SIGNATURE_SHAPE),
    (_xsw_in_signature_value, ListRefusal.SIGNATURE_SHAPE),
    (_xsw_in_key_info, ListRefusal.SIGNATURE_SHAPE),
    (_xsw_in_extension, ListRefusal.SIGNATURE_INVALID),
    (_xsw_by_id, ListRefusal.SIGNATURE_SHAPE),
    (_second_reference, ListRefusal.SIGNATURE_SHAPE),
    (_second_certificate, ListRefusal.SIGNATURE_SHAPE),
    (_signature_in_list, ListRefusal.SIGNATURE_SHAPE),
    (_two_lists, ListRefusal.SIGNATURE_INVALID),
    (_two_dates, ListRefusal.STRUCTURE),
    (_wrap_in_new_root, ListRefusal.SIGNATURE_SHAPE),
    (_original_in_object, ListRefusal.SIGNATURE_SHAPE),
    (_signature_stolen, ListRefusal.SIGNATURE_INVALID),
    (_signature_first, ListRefusal.SIGNATURE_SHAPE),
    (_signature_deeper, ListRefusal.SIGNATURE_SHAPE),
    (_two_signatures, ListRefusal.SIGNATURE_SHAPE),
    (_added_entry, ListRefusal.SIGNATURE_INVALID),
    (_added_key_value, ListRefusal.SIGNATURE_SHAPE),
    (_reference_by_id, ListRefusal.SIGNATURE_SHAPE),
    (_extra_transform, ListRefusal.SIGNATURE_SHAPE),
    (_algorithm("SignatureMethod", "http://www.w3.org/2000/09/xmldsig#rsa-sha1"), ListRefusal.SIGNATURE_SHAPE),
    (_algorithm("SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"), ListRefusal.SIGNATURE_SHAPE),
    (_algorithm("DigestMethod", "http://www.w3.org/2000/09/xmldsig#sha1"), ListRefusal.SIGNATURE_SHAPE),
    (
        _algorithm("CanonicalizationMethod", "http://www.w3.org/2001/10/xml-exc-c14n#WithComments"),
        ListRefusal.SIGNATURE_SHAPE,
    ),
    (_unsigned, ListRefusal.UNSIGNED),
]


@pytest.mark.parametrize(("attack", "code"), WRAPPINGS)
def test_signature_wrapping_is_refused(
    authority: PracticeAuthority,
    white_list: bytes,
    attack: Callable[[etree._Element, etree._Element], etree._Element],
    code: ListRefusal,
) -> None:
    evil = etree.fromstring(white_list.replace(b"hopital-a", b"evil"))
    evil.remove(evil[-1])
    tampered = etree.tostring(attack(etree.fromstring(white_list), evil))
    assert refusal(authority, tampered) is code


BOMB = b"<!DOCTYPE b [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9)
)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html><body>Maintenance</body></html>",
        b"<!DOCTYPE html><html><body>Maintenance</html>",
        b"\x1f\x8b\x08\x00",
        BOMB + b']><ListeBlancheMSSante xmlns="https://listeblanche.mssante.fr/schema">&j;</ListeBlancheMSSante>',
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        b'<ListeBlancheMSSante xmlns="https://listeblanche.mssante.fr/schema">&e;</ListeBlancheMSSante>',
        b"<a>" * 100_000,
    ],
)
def test_what_is_not_a_list_is_refused_quickly(authority: PracticeAuthority, garbage: bytes) -> None:
    start = time.perf_counter()
    assert refusal(authority, garbage) in {ListRefusal.NOT_XML, ListRefusal.WRONG_ROOT}
    assert time.perf_counter() - start < 1


def test_a_document_type_is_refused_even_around_a_good_list(authority: PracticeAuthority, white_list: bytes) -> None:
    declaration, rest = white_list.split(b"?>", 1)
    for doctype in (b"<!DOCTYPE ListeBlancheMSSante>", b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">'):
        assert refusal(authority, declaration + b"?>" + doctype + rest) is ListRefusal.NOT_XML
    recoded = (doctype + rest).decode().encode("utf-16")
    assert refusal(authority, recoded) is ListRefusal.NOT_XML


def test_the_size_is_bounded(authority: PracticeAuthority) -> None:
    assert refusal(authority, b" " * (MAX_LIST_SIZE + 1)) is ListRefusal.TOO_LARGE


def test_the_number_of_elements_is_bounded(authority: PracticeAuthority) -> None:
    """What a small file may cost in memory: counted before any tree is made."""
    start = time.perf_counter()
    assert refusal(authority, b"<a>" + b"<b/>" * 2_100_000 + b"</a>") is ListRefusal.TOO_LARGE
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "cp037"])
def test_other_encodings_are_refused(authority: PracticeAuthority, white_list: bytes, encoding: str) -> None:
    text = white_list.decode().replace('encoding="UTF-8"', f'encoding="{encoding}"')
    assert refusal(authority, text.encode(encoding)) is ListRefusal.NOT_XML


def test_xmlsec1_and_we_agree_on_what_is_accepted(
    authority: PracticeAuthority, white_list: bytes, tmp_path: Path
) -> None:
    """Whatever octet is changed: nothing that xmlsec1 refuses is accepted by us (we refuse more)."""
    path = tmp_path / "list.xml"
    command = ["xmlsec1", "--verify", "--verification-gmt-time", "2026-03-02 09:30:00"]
    for option, name in (
        ("--trusted-pem", "anchors/TEST-ACR-EL"),
        ("--untrusted-pem", "intermediates/TEST-ACI-EL-ORG"),
    ):
        command += [option, str(authority.folder / f"{name}.pem")]
    accepted = 0
    for place in range(0, len(white_list), 131):
        damaged = white_list[:place] + bytes([white_list[place] ^ 1]) + white_list[place + 1 :]
        try:
            load(authority, damaged)
        except WhiteListRefused:
            continue
        accepted += 1
        path.write_bytes(damaged)
        assert subprocess.run([*command, str(path)], capture_output=True, check=False).returncode == 0, place
    assert accepted < 5


def test_every_truncation_is_refused(authority: PracticeAuthority, white_list: bytes) -> None:
    for length in range(0, len(white_list), 97):
        with pytest.raises(WhiteListRefused):
            load(authority, white_list[:length])
