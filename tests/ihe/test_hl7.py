"""HL7 v2: the public samples read as python-hl7 reads them, hand-overs checked, acknowledgements written, hostile bytes refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihe.hand_over import Order, combination_allowed, read_hand_over
from ihe.hl7v2 import Business, Hl7Error, build_ack, build_zam, escape, parse, read_ack
from tests.ihe.support import report, samples

AT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def sample(name: str) -> bytes:
    """One public sample."""
    return (samples("ansforge") / "hl7v2" / name).read_bytes()


def mdm(
    content: bytes,
    *,
    event: str = "T02",
    control: str = "NW",
    status: str = "F",
    identity: str = "VALI",
    flags: str = "",
    extra: str = "",
) -> bytes:
    """A message of the volet v2.1 around `content`."""
    lines = [
        f"MSH|^~\\&|RIS-Y|Organisation-Y|PFI-Y|Organisation-Y|202106060931||MDM^{event}^MDM_T02|015|P|2.6|||||FRA|"
        "UNICODE UTF-8|||2.1^CISIS_CDA_HL7_V2",
        "EVN||20211005152908",
        "PID|||279035121518989^^^ASIP-SANTE-INS-NIR&1.2.250.1.213.1.4.10&ISO^INS||PAT-TROIS^DOMINIQUE||19790328|F"
        + "|" * 24
        + identity,
        f"ORC|{control}",
        "OBR|1|||34112-3^CR^LN",
        "TXA|1|34112-3|TEXT|202212160932||||||||1.2.3.4",
        f"OBX|1|ED|34112-3^CR^LN||^text^XML^Base64^{base64.b64encode(content).decode()}||||||{status}",
        "PRT||UC||SB^^participation|899900000019^EXEMPLE^Alice^^^^^^ASIP-SANTE-PS&1.2.250.1.71.4.2.1&ISO^D^^^IDNPS",
        *(
            f"OBX|{n}|CWE|{flag.split('=')[0]}^x^MetaDMPMSS||{flag.split('=')[1]}^^expandedYes-NoIndicator||||||F"
            for n, flag in enumerate(flags.split(), 2)
        ),
    ]
    return ("\r".join(lines) + "\r" + extra).encode()


@pytest.mark.parametrize(
    "name",
    [
        "MDM_T02_v2.1_CR_Radio_INIT_N1.er7",
        "MDM_T10_v2.0_CR_Radio_RPLC_N1.er7",
        "MDM_T04_v2.0_CR_Radio_DEL_N1.er7",
        "MDM_T02_LPS_MSS_v1.1_CR_Radio_INIT_N1.er7",
        "ConsentementConsultation_NonOppositionAlimentation.er7",
        "ZAM_Z01_ack_reception_DMP_KO.er7",
    ],
)
def test_samples_read_as_python_hl7_reads_them(name: str) -> None:
    data = sample(name)
    ours = parse(data)
    theirs = hl7.parse(data.decode().replace("\n", "\r").strip("\r"))
    assert [segment.name for segment in ours.segments] == [str(segment[0]) for segment in theirs]
    for mine, other in zip(ours.segments, theirs, strict=True):
        for number in range(3, len(mine.fields)):
            assert mine.raw(number) == str(other[number])


@pytest.mark.parametrize(
    ("name", "order", "replaced"),
    [
        ("MDM_T02_v2.1_CR_Radio_INIT_N1.er7", Order.NEW, ""),
        ("MDM_T10_v2.0_CR_Radio_RPLC_N1.er7", Order.REPLACE, "1.2.250.1.71.4.2.2.120456789A71024000081"),
        ("MDM_T04_v2.0_CR_Radio_DEL_N1.er7", Order.DELETE, "1.2.250.1.71.4.2.2.120456789A71024000081"),
    ],
)
def test_sample_hand_overs(name: str, order: Order, replaced: str) -> None:
    given_ = read_hand_over(sample(name))
    assert (given_.order, given_.replaced_id, given_.identity_status) == (order, replaced, "VALI")
    assert given_.documents == (b"Document medcial au format CDA niveau 1",)
    assert given_.sender is not None and given_.sender.structure_id == "1300017985"
    assert [one.address for one in given_.recipients] == ["adam.hoda@test-ci-sis.mssante.fr"]
    assert given_.body_professional.startswith("Cher confrère")
    assert "combination" in given_.warnings


def test_flags_become_the_metadata_codes() -> None:
    given_ = read_hand_over(mdm(b"<x/>", flags="MASQUE_PS=N INVISIBLE_PATIENT=Y INVISIBLE_REP_LEGAUX=Y DESTDMP=Y"))
    assert given_.visibility == ("INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX")
    assert given_.flag("DESTDMP") and not given_.flag("ACK_RECEPTION")


@pytest.mark.parametrize(
    ("changes", "code", "place"),
    [
        ({"event": "T10"}, "207", "ORC-1"),
        ({"control": "CA"}, "207", "ORC-1"),
        ({"status": "C"}, "207", "ORC-1"),
        ({"status": "X"}, "103", "OBX-11"),
        ({"event": "T05"}, "201", "MSH-9"),
        ({"flags": "MASQUE_PS=maybe"}, "103", "OBX-5"),
        ({"flags": "DESTDMP=Y DESTDMP=N"}, "198", "OBX-3"),
        ({"extra": "lower|case\r"}, "100", ""),
        ({"extra": "MSH|^~\\&|again\r"}, "100", "MSH"),
    ],
)
def test_incoherent_messages_are_refused_with_their_place(changes: dict[str, str], code: str, place: str) -> None:
    with pytest.raises(Hl7Error) as caught:
        read_hand_over(mdm(b"<x/>", **changes))
    assert (caught.value.code, caught.value.location) == (code, place)


def test_matrix_of_combinations() -> None:
    def flags(text: str) -> dict[str, bool]:
        names = (
            "MASQUE_PS",
            "INVISIBLE_PATIENT",
            "INVISIBLE_REP_LEGAUX",
            "CONNEXION_SECRETE",
            "DESTDMP",
            "DESTMSSANTEPS",
            "DESTMSSANTEPAT",
        )
        return {name: letter == "Y" for name, letter in zip(names, text, strict=True)}

    for allowed in ("NNNNYYY", "NYNYYYN", "YNYNNNY", "NNNNNNY", "YYYYYNN"):
        assert combination_allowed(flags(allowed)), allowed
    for refused in ("NNNNYYN", "NYYNYYN", "NYNNNNY", "NNNYNNY", "NNNNYNY", "YNNNYYY"):
        assert not combination_allowed(flags(refused)), refused


def test_acknowledgement_follows_the_sample_and_swaps_the_parties() -> None:
    message = parse(sample("MDM_T02_v2.1_CR_Radio_INIT_N1.er7"))
    answer = build_ack(message, "AE", control_id="7", at=AT, errors=(Hl7Error("101", "PRT-4", "x"),), text="à|voir")
    read = parse(answer)
    assert read.kind == ("ACK", "T02") and read.header.get(3) == "PFI-Y" and read.header.get(5) == "RIS-Y"
    segment = read.first("MSA")
    assert segment is not None and (segment.get(1), segment.get(2), segment.get(3)) == ("AE", "015", "à|voir")
    error = read.first("ERR")
    assert error is not None and (error.get(2), error.get(3)) == ("PRT-4", "101")
    assert read_ack(answer) == ("AE", "015")
    assert read_ack(sample("ACK_T10_AA.er7")) == ("AA", "015")
    assert str(hl7.parse(answer.decode()).segment("MSA")[1]) == "AE"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ZAM_Z01_ack_reception_DMP_KO.er7", Business("Z01", "015", False, code="DMPClosed", label="DMP fermé")),
        ("ZAM_Z02_ack_reception_MSS.er7", Business("Z02", "015", True, recipient="adam.hoda@test-ci-sis.mssante.fr")),
        ("ZAM_Z03_ack_lecture_MSS.er7", Business("Z03", "015", True, recipient="adam.hoda@test-ci-sis.mssante.fr")),
    ],
)
def test_business_acknowledgements_say_what_the_samples_say(name: str, what: Business) -> None:
    theirs = parse(sample(name))
    ours = parse(
        build_zam(what, sending=("PFI-X", "Organisation-X"), receiving=("SIL-Y", "labo"), control_id="1", at=AT)
    )
    assert ours.kind == theirs.kind and ours.header.get(9, 3) == "ZAM_Z01"
    assert [segment.name for segment in ours.segments] == [segment.name for segment in theirs.segments]
    for mine, other in zip(ours.all("OBX"), theirs.all("OBX"), strict=True):
        assert mine.raw(3) == other.raw(3) and mine.get(5) == other.get(5) and mine.get(5, 4) == other.get(5, 4)
    errors = [(one.get(5, 1), one.get(5, 2)) for one in (*ours.all("ERR"), *theirs.all("ERR"))]
    assert len(set(errors)) <= 1


def test_latin_text_is_read_in_its_character_set() -> None:
    data = mdm(b"<x/>").decode().replace("UNICODE UTF-8", "8859/15").replace("EXEMPLE", "ÉLÉONORE").encode("iso8859-15")
    sender = read_hand_over(data).sender
    assert sender is not None and sender.family == "ÉLÉONORE"
    with pytest.raises(Hl7Error):
        read_hand_over(data.replace(b"8859/15", b"UNICODE UTF-8"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_nothing_but_its_own_error_leaves(tail: bytes) -> None:
    for data in (tail, b"MSH|^~\\&|" + tail, mdm(b"<x/>") + tail):
        try:
            read_hand_over(data)
        except Hl7Error:
            continue


@given(st.text(max_size=60))
def test_what_is_escaped_comes_back(text: str) -> None:
    message = parse(f"MSH|^~\\&|{escape(text)}|B|||2021||ACK|1|P|2.6\r".encode())
    expected = "".join(char if char.isprintable() else " " for char in text)
    assert message.header.get(3) == expected


def test_a_real_document_travels_unchanged() -> None:
    content = report()
    assert read_hand_over(mdm(content)).documents == (content,)
