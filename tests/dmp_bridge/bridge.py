"""What the bridge's tests share: a mail store with deposits, an outlet, messages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

import mime
from dmp_bridge import DepositContext, DmpOutlet, plan_deposits
from ihe.cda import read_cda
from ihe.ebrim import EXTRA_METADATA, entry_from_cda, lot, xds_author
from ihe.samples import synthetic_author
from ihe.xdm import XdmContent, write_xdm
from mailstore.model import Acceptance, Direction
from mailstore.store import Store
from trustspace import Anchors, Issued, client_context

MASTER_KEY = bytes(range(32))
SOURCE_ID = "1.2.250.1.999.1.1.20001"


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def context(**changes: object) -> DepositContext:
    """The sender of the tests: the hospital of the synthetic documents."""
    values: dict[str, object] = {
        "sender": "secretariat@hopital.mssante.fr",
        "structure_id": "1990000011",
        "structure_name": "HOPITAL DE TEST",
    }
    return DepositContext(**(values | changes))  # type: ignore[arg-type]


def message(*entities: bytes, to: str = "medecin@cabinet.mssante.fr", subject: str = "CR") -> bytes:
    """A message with these attachments."""
    head = mime.header_field("From", "secretariat@hopital.mssante.fr") + mime.header_field("To", to)
    head += mime.header_field("Subject", subject) + b"MIME-Version: 1.0\r\n"
    text = mime.leaf("text/plain", b"Bonjour", disposition=None)
    return head + mime.multipart("mixed", [text, *entities])


def xml(content: bytes, name: str = "cr.xml") -> bytes:
    """A loose CDA attachment."""
    return mime.leaf("text/xml", content, filename=name)


def package(content: bytes, *, action: str = "", masks: tuple[str, ...] = (), pdf: bytes | None = None) -> bytes:
    """An IHE_XDM.zip attachment of one document, with its announcement and its masks."""
    header = read_cda(content)
    entry = entry_from_cda(header, content, visibility_codes=masks)
    if action:
        entry = replace(entry, extra_slots=((EXTRA_METADATA, (action,)),))
    author = xds_author(synthetic_author("899900000019", "EXEMPLE", "Alice"))
    submission = lot(header, (entry,), unique_id="1.2.3.4", source_id=SOURCE_ID, author=author, at=now())
    archive = write_xdm([XdmContent(entry, content, pdf)], submission, at=now(), sender="HOPITAL DE TEST")
    return mime.leaf("application/zip", archive, filename="IHE_XDM.ZIP")


def open_mailstore(folder: Path, master_key: bytes = MASTER_KEY) -> Store:
    """The mail store in `folder`."""
    return Store.create(f"sqlite:///{folder / 'mail.sqlite'}", folder / "blobs", master_key)


def outlet(
    url: str, peer: Issued, signer: Issued, anchors: Anchors, *, timeout: float = 10.0, existence: bool = False
) -> DmpOutlet:
    """The way to the record at `url`."""
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    tls = client_context(peer.chain, peer.key, anchors, check_hostname=True)
    return DmpOutlet(url, tls, signer.key, signer.chain, SOURCE_ID, timeout=timeout, existence_test=existence)


def accept(store: Store, raw: bytes, sender: DepositContext | None = None, *, original: bytes = b"") -> None:
    """Accept a message with the deposits the bridge plans for it, and what their receipt gives back."""
    deposits = tuple(replace(one, original=original) for one in plan_deposits(raw, sender or context()))
    acceptance = Acceptance(
        Direction.SUBMISSION, "secretariat", "a@b.fr", ("c@d.fr",), "<m@b.fr>", raw, deposits=deposits
    )
    store.accept(acceptance, now())
