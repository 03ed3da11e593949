"""A record over real mutual TLS on a free port, practice certificates, and hand-composed ITI-41 requests."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.types import ASGIApp

from dossier import Authority, RecordServer, RecordStore, bind, make_record_app
from ihe import mtom, soap
from ihe.cda import Patient, read_cda
from ihe.dsg import build_lot_signature
from ihe.ebrim import (
    RegistryResponse,
    Submission,
    entry_from_cda,
    lot,
    parse_registry_response,
    sha1_of,
    to_provide_and_register,
    with_signature,
    xds_author,
)
from ihe.samples import make_crh_n1, synthetic_author, synthetic_patient, synthetic_structure
from ihe.values import Code
from ihe.vihf import VihfContent, build_vihf
from trustspace import (
    Anchors,
    Issued,
    PathValidator,
    PracticeAuthority,
    Usage,
    client_context,
    read_crl,
    server_context,
)

STRUCTURE = "1990000011"
OTHER_STRUCTURE = "1990000029"
AUTHOR = synthetic_author("899900000019", "EXEMPLE", "Alice")
MASTER_KEY = bytes(range(32))


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def oid() -> str:
    """A fresh OID."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True)
class Trust:
    """Practice certificates, made once for the whole run."""

    folder: Path
    authority: PracticeAuthority
    server: Issued
    peer: Issued
    signer: Issued
    other_peer: Issued
    other_signer: Issued

    @classmethod
    def create(cls, folder: Path) -> Trust:
        """Make the authorities and the certificates of two structures."""
        at = now() - timedelta(hours=1)
        authority = PracticeAuthority.create(folder, at=at)

        def organisation(structure: str, usage: str) -> Issued:
            cn, name = f"{usage}.{structure}.practice", f"HOPITAL {structure}"
            assert usage in ("auth", "sign")
            if usage == "auth":
                return authority.issue_organisation(cn, name, structure, "Paris (75)", usage="auth", at=at)
            return authority.issue_organisation(cn, name, structure, "Paris (75)", usage="sign", at=at)

        return cls(
            folder,
            authority,
            authority.issue_server(
                "localhost", "DOSSIER", "1990000037", "Paris (75)", dns=("localhost",), ips=("127.0.0.1",), at=at
            ),
            organisation(STRUCTURE, "auth"),
            organisation(STRUCTURE, "sign"),
            organisation(OTHER_STRUCTURE, "auth"),
            organisation(OTHER_STRUCTURE, "sign"),
        )

    @property
    def anchors(self) -> Anchors:
        """What everybody trusts."""
        return Anchors.load(self.folder)

    def checker(self, usage: Usage) -> Callable[..., object]:
        """A path checker over the CRLs as they are now on disk."""
        crls = [read_crl(path) for path in sorted((self.folder / "crl").glob("*.crl"))]
        validator = PathValidator(self.anchors, crls)
        return lambda certificate, supplied, at: validator.check(certificate, supplied, at=at, usage=usage)

    def record_authority(self) -> Authority:
        """The record's trust decisions."""
        return Authority(self.checker(Usage.SIGNATURE), self.checker(Usage.TLS_CLIENT))  # type: ignore[arg-type]

    def client(self, issued: Issued | None) -> ssl.SSLContext:
        """A client's TLS context, with a certificate or without."""
        chain, key = (issued.chain, issued.key) if issued is not None else (None, None)
        return client_context(chain, key, self.anchors, check_hostname=True)


@contextmanager
def serving(app: ASGIApp, context: ssl.SSLContext) -> Iterator[str]:
    """Serve an application over TLS in a thread; gives the base URL."""
    listener: socket.socket = bind("127.0.0.1", 0)
    server = RecordServer(app, context)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(listener)), daemon=True)
    thread.start()
    limit = time.monotonic() + 10
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)
    try:
        yield f"https://localhost:{listener.getsockname()[1]}"
    finally:
        server.stop()
        thread.join(15)


@dataclass
class House:
    """A running record and what talks to it."""

    trust: Trust
    store: RecordStore
    url: str
    folder: Path

    @property
    def repository(self) -> str:
        """The ITI-41 endpoint."""
        return f"{self.url}/si-dmp-server/v2/services/repository"

    def post(
        self, content_type: str, body: bytes, *, issued: Issued | None = None, timeout: float = 10
    ) -> httpx.Response:
        """Post bytes with a client certificate (the depositing structure's by default)."""
        context = self.trust.client(issued or self.trust.peer)
        with httpx.Client(verify=context, timeout=timeout, trust_env=False) as client:
            return client.post(self.repository, content=body, headers={"Content-Type": content_type})


def sha1_hex(content: bytes) -> str:
    """The XDS hash."""
    return sha1_of(content)


def open_store(folder: Path, *, automatic_creation: bool = True) -> RecordStore:
    """A record in `folder`."""
    url = f"sqlite:///{folder / 'record.sqlite'}"
    return RecordStore(url, folder / "documents", MASTER_KEY, automatic_creation=automatic_creation)


@contextmanager
def house(
    trust: Trust,
    folder: Path,
    *,
    wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    max_body: int = 8 << 20,
    automatic_creation: bool = True,
) -> Iterator[House]:
    """A record of its own in `folder`, listening."""
    store = open_store(folder, automatic_creation=automatic_creation)
    app = make_record_app(store, trust.record_authority(), max_body=max_body, body_seconds=1.0)
    context = server_context(trust.server.chain, trust.server.key, client_anchors=trust.anchors, client="required")
    try:
        with serving(wrap(app), context) as url:
            yield House(trust, store, url, folder)
    finally:
        store.close()


def make_cda(patient: Patient, *, text: str = "compte rendu", structure: str = STRUCTURE, **options: object) -> bytes:
    """A synthetic hospital report whose PDF is stood in for by `text` (the record never opens the body)."""
    organisation = synthetic_structure(structure, "HOPITAL DE TEST")
    return make_crh_n1(patient, AUTHOR, organisation, at=now(), pdf=text.encode(), **options)  # type: ignore[arg-type]


@dataclass
class Lot:
    """An ITI-41 request under construction; every field may be spoilt by a test."""

    trust: Trust
    patient: Patient = field(default_factory=lambda: synthetic_patient(1))
    content: bytes = b""
    at: datetime = field(default_factory=now)
    vihf_at: datetime | None = None
    vihf_patient: Patient | None = None
    vihf_structure: str = STRUCTURE
    vihf_signer: Issued | None = None
    lot_signer: Issued | None = None
    set_id: str = field(default_factory=oid)
    replaces: str = ""
    spoil: Callable[[Submission], Submission] = lambda submission: submission
    spoil_vihf: Callable[[bytes], bytes | None] = lambda assertion: assertion
    spoil_parts: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda parts: parts

    def __post_init__(self) -> None:
        self.content = self.content or make_cda(self.patient)

    def vihf(self) -> bytes | None:
        """The assertion."""
        signer = self.vihf_signer or self.trust.signer
        patient = self.vihf_patient or self.patient
        content = VihfContent(
            name_id="899900000019",
            subject_name="Alice EXEMPLE",
            roles=(Code("10", "1.2.250.1.71.1.2.7"), Code("SM54", "1.2.250.1.71.4.2.5")),
            structure_id=self.vihf_structure,
            sector="SA01",
            ins=patient.ins,
            ins_oid=patient.ins_oid,
            authenticated_at=self.at,
        )
        assert isinstance(signer.key, rsa.RSAPrivateKey)
        chain: tuple[x509.Certificate, ...] = signer.chain
        at = self.vihf_at or self.at
        return self.spoil_vihf(build_vihf(content, key=signer.key, chain=chain, assertion_id=f"_{uuid.uuid4()}", at=at))

    def compose(self) -> tuple[str, bytes]:
        """Content type and body."""
        header = read_cda(self.content)
        entry = entry_from_cda(header, self.content)
        author = xds_author(AUTHOR)
        targets = {entry.entry_id: self.replaces} if self.replaces else None
        submission = lot(
            header, (entry,), unique_id=self.set_id, source_id=oid(), author=author, at=self.at, replaces=targets
        )
        signer = self.lot_signer or self.trust.signer
        assert isinstance(signer.key, rsa.RSAPrivateKey)
        signature = build_lot_signature(
            [(entry.unique_id, self.content)],
            submission_set_id=self.set_id,
            key=signer.key,
            chain=signer.chain,
            at=self.at,
        )
        submission = self.spoil(
            with_signature(
                submission,
                signature,
                unique_id=oid(),
                author=author,
                legal_authenticator=author.persons[0],
                at=self.at,
            )
        )
        parts = {"Document01": self.content, "Signature01": signature}
        cids = {item.entry_id: f"{item.entry_id}@test" for item in submission.documents}
        body = to_provide_and_register(submission, cids)
        assertion = self.vihf()
        envelope = soap.build_envelope(
            body,
            action=soap.PROVIDE_AND_REGISTER,
            message_id=f"urn:uuid:{uuid.uuid4()}",
            assertion=assertion,
        )
        sent = self.spoil_parts({f"{name}@test": content for name, content in parts.items()})
        return mtom.build(envelope, [mtom.MtomPart(cid, content) for cid, content in sent.items()])


def answer(response: httpx.Response) -> RegistryResponse | soap.Fault:
    """What a response says."""
    root, _ = mtom.parse(response.headers["content-type"], response.content)
    envelope = soap.parse_envelope(root)
    return envelope.fault if envelope.fault is not None else parse_registry_response(envelope.body)


def spoil_entry(**changes: object) -> Callable[[Submission], Submission]:
    """Change attributes of the clinical document's entry."""

    def spoil(submission: Submission) -> Submission:
        first, *rest = submission.documents
        return replace(submission, documents=(replace(first, **changes), *rest))  # type: ignore[arg-type]

    return spoil
