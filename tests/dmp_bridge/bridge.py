"""What the bridge's tests share: a mail store with deposits, an outlet, messages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

import mime
from dmp_bridge import DepositContext, DmpOutlet, plan_deposits
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


def open_mailstore(folder: Path, master_key: bytes = MASTER_KEY) -> Store:
    """The mail store in `folder`."""
    return Store.create(f"sqlite:///{folder / 'mail.sqlite'}", folder / "blobs", master_key)


def outlet(url: str, peer: Issued, signer: Issued, anchors: Anchors, *, timeout: float = 10.0) -> DmpOutlet:
    """The way to the record at `url`."""
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    tls = client_context(peer.chain, peer.key, anchors, check_hostname=True)
    return DmpOutlet(url, tls, signer.key, signer.chain, SOURCE_ID, timeout=timeout)


def accept(store: Store, raw: bytes, sender: DepositContext | None = None) -> None:
    """Accept a message with the deposits the bridge plans for it."""
    deposits = plan_deposits(raw, sender or context())
    acceptance = Acceptance(
        Direction.SUBMISSION, "secretariat", "a@b.fr", ("c@d.fr",), "<m@b.fr>", raw, deposits=deposits
    )
    store.accept(acceptance, now())
