"""Round trips with OpenSSL, gpgsm and NSS for every algorithm, and the table of them in docs/smime-interop.md.

The table is made by this test. When what was found differs from the file, the test fails; run it once with
CADUCEE_UPDATE_DOCS=1 to write the file again, and look at the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smime
from smime import choose, enveloped, judge, signed
from smime.algorithms import Mechanism
from smime.verdict import Judging, Verdict
from tests.smime import peers
from tests.smime.certificates import Holder, path
from tests.smime.peers import Gpgsm, Peer, Refused, Unable

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "smime-interop.md"
CONTENT = (
    b"Content-Type: text/plain; charset=us-ascii\r\n\r\nBonjour,\r\nun compte rendu.\r\n" + b"0123456789\r\n" * 300
)
pytestmark = pytest.mark.skipif(bool(peers.missing()), reason=f"not installed: {', '.join(peers.missing())}")

HOLDER_OF = {"rsa": "rsa", "pss": "rsa", "ed25519": "ed25519"}
SIGNED: list[tuple[str, Mechanism, bool]] = [
    *((f"{mechanism.value}, multipart/signed", mechanism, True) for mechanism in Mechanism),
    ("rsa-pkcs1-sha256, opaque", Mechanism.RSA_PKCS1_SHA256, False),
    ("ecdsa-sha256, opaque", Mechanism.ECDSA_SHA256, False),
]
CBC, GCM = smime.ContentCipher.AES256_CBC, smime.ContentCipher.AES256_GCM
ENVELOPED: list[tuple[str, tuple[str, ...], smime.ContentCipher, bool]] = [
    *((f"{cipher.value}, RSA PKCS#1 v1.5", ("rsa",), cipher, False) for cipher in smime.EncryptionPolicy().ciphers),
    *((f"{cipher.value}, RSA-OAEP SHA-256", ("rsa",), cipher, True) for cipher in (CBC, GCM)),
    *(
        (f"{cipher.value}, ECDH P-{who[1:]}", (who,), cipher, False)
        for who in ("p256", "p384", "p521")
        for cipher in (CBC, GCM)
    ),
    ("aes256-cbc, X25519", ("x25519",), CBC, False),
    *(
        (f"{cipher.value}, RSA PKCS#1 v1.5", ("rsa",), cipher, False)
        for cipher in smime.ContentCipher
        if cipher not in smime.EncryptionPolicy().ciphers
    ),
    ("aes256-cbc, RSA and P-256 together", ("rsa", "p256"), CBC, False),
]


def holder_name(mechanism: Mechanism) -> str:
    return HOLDER_OF.get(mechanism.family) or {"sha256": "p256", "sha384": "p384", "sha512": "p521"}[mechanism.digest]


@pytest.fixture(scope="module")
def holders() -> dict[str, Holder]:
    return peers.people()


@pytest.fixture(scope="module")
def programs(holders: dict[str, Holder], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Peer]]:
    # A short path: the agent's socket must fit in 108 octets.
    folder = tmp_path_factory.mktemp("i")
    found: list[Peer] = [peers.OpenSsl(folder / "o", holders)]
    gpgsm = Gpgsm(folder / "g", holders)
    try:
        found += [gpgsm, peers.Nss(folder / "n", holders), peers.GnuTls(folder / "t", holders)]
        yield found
    finally:
        gpgsm.stop()


class Legend:
    """Why a cell is not `oui`, numbered in the order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def attempt(self, peer: Peer, work: Callable[[], None]) -> str:
        """`oui` when it went well; the number of the reason when the other program refuses or cannot be asked. Our own
        failures are raised."""
        try:
            work()
        except (Refused, Unable) as error:
            number = self._numbers.setdefault(f"{peer.name}: {error.reason}", len(self._numbers) + 1)
            return f"- ({number})"
        return "oui"

    def text(self) -> str:
        return "".join(f"{number}. {reason}\n" for reason, number in self._numbers.items())


def they_verify(legend: Legend, peer: Peer, holder: Holder, mechanism: Mechanism, detached: bool) -> str:
    from datetime import UTC, datetime

    segments, _ = signed.sign(CONTENT, (holder.signer, mechanism), at=datetime.now(UTC), detached=detached)
    return legend.attempt(peer, lambda: peer.verify(b"".join(segments), CONTENT, detached=detached))


def we_verify(legend: Legend, peer: Peer, who: str, mechanism: Mechanism, detached: bool) -> str:
    def work() -> None:
        from datetime import UTC, datetime

        cms = peer.sign(who, mechanism, CONTENT, detached=detached)
        judging = Judging(datetime.now(UTC), path)
        (found,) = judge.verify(cms, CONTENT if detached else None, judging)
        assert (found.verdict, found.reasons) == (Verdict.VALID, ()), (peer.name, mechanism)
        changed = bytearray(CONTENT)
        changed[60] ^= 1
        if detached:
            (wrong,) = judge.verify(cms, bytes(changed), judging)
            assert wrong.verdict is Verdict.INVALID

    return legend.attempt(peer, work)


def they_decrypt(
    legend: Legend,
    peer: Peer,
    holders: dict[str, Holder],
    who: tuple[str, ...],
    cipher: smime.ContentCipher,
    oaep: bool,
) -> str:
    if cipher not in smime.EncryptionPolicy().ciphers:
        return "jamais écrit / never written"
    transport = smime.Transport.OAEP_SHA256 if oaep else None
    plan = choose([holders[name].certificate for name in who], cipher=cipher, transport=transport)
    cms = enveloped.encrypt(CONTENT, plan)

    def work() -> None:
        for name in who:
            assert peer.decrypt(name, cms) == CONTENT

    return legend.attempt(peer, work)


def we_decrypt(
    legend: Legend,
    peer: Peer,
    holders: dict[str, Holder],
    who: tuple[str, ...],
    cipher: smime.ContentCipher,
    oaep: bool,
) -> str:
    def work() -> None:
        cms = peer.encrypt(who, cipher, CONTENT, oaep=oaep)
        for name in who:
            opened = enveloped.decrypt(cms, [holders[name].decryptor], policy=smime.ReadingPolicy(triple_des=True))
            assert opened.content == CONTENT

    return legend.attempt(peer, work)


def table(title: str, rows: list[tuple[str, list[str]]], names: list[str]) -> str:
    head = f"| {title} | " + " | ".join(f"{name} lit / reads | {name} écrit / writes" for name in names) + " |"
    lines = [head, "|---|" + "---|---|" * len(names)]
    lines += [f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows]
    return "\n".join(lines)


@pytest.mark.slow
def test_round_trips_and_their_table(programs: list[Peer], holders: dict[str, Holder]) -> None:
    legend, signatures = Legend(), []
    for label, mechanism, detached in SIGNED:
        who = holder_name(mechanism)
        cells: list[str] = []
        for peer in programs:
            cells.append(they_verify(legend, peer, holders[who], mechanism, detached))
            cells.append(we_verify(legend, peer, who, mechanism, detached))
        signatures.append((label, cells))
    envelopes = []
    for label, recipients, cipher, oaep in ENVELOPED:
        cells = []
        for peer in programs:
            cells.append(they_decrypt(legend, peer, holders, recipients, cipher, oaep))
            cells.append(we_decrypt(legend, peer, holders, recipients, cipher, oaep))
        envelopes.append((label, cells))
    names = [peer.name for peer in programs]
    tables = table("Signature", signatures, names) + "\n\n" + table("Enveloppe / envelope", envelopes, names)
    text = HEAD + tables + "\n\n" + LEGEND + legend.text()
    if os.environ.get("CADUCEE_UPDATE_DOCS"):
        DOCUMENT.write_text(text, "utf-8")
    assert DOCUMENT.read_text("utf-8") == text, "docs/smime-interop.md is stale: run with CADUCEE_UPDATE_DOCS=1"


HEAD = """# S/MIME : aller et retour avec d'autres programmes / round trips with other programs

Tableau écrit par `tests/smime/test_interop.py`, qui échoue s'il n'est plus vrai. « lit » : l'autre programme vérifie ou ouvre
ce que Caducée écrit ; « écrit » : Caducée vérifie ou ouvre ce que l'autre écrit. `- (n)` : l'autre programme ne sait pas le
faire, raison n plus bas. Vu avec OpenSSL 3.0, gpgsm 2.2, NSS 3.87 et GnuTLS 3.7 (Debian 12).

Table written by `tests/smime/test_interop.py`, which fails when it is no longer true. "reads": the other program verifies or
opens what Caducée writes; "writes": Caducée verifies or opens what the other writes. `- (n)`: the other program cannot, for
reason n below.

X25519 : aucun de ces programmes ne le connaît dans CMS ; voir `tests/smime/test_vectors.py`. X25519: none of these programs
knows it in CMS; see `tests/smime/test_vectors.py`.

"""
LEGEND = """Ce que l'autre programme dit ou ne peut pas / What the other program says, or cannot do:

"""
