"""Creating a mailbox: the account, its server-side key in a practice trust space, its entry in the directory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509 import Certificate

from caducee.sections import OperatorSection
from directory import Entry, entry_dn
from directory import MailboxKind as DirectoryKind
from mailstore import MailboxKind, Store
from trustspace import Issued, PracticeAuthority, pem

PERSONAL = frozenset({MailboxKind.PER, MailboxKind.CAB})


@dataclass(frozen=True, slots=True)
class NewMailbox:
    """What is asked for a mailbox. `profession` is the French title of a person (PER, CAB), empty for a structure."""

    address: str
    kind: MailboxKind
    national_id: str
    display_name: str
    surname: str = ""
    given_name: str = ""
    profession: str = ""
    profession_code: str = ""
    city: str = ""
    password: str | None = None
    client_certificate: Certificate | None = None


def add_mailbox(
    store: Store,
    mailbox: NewMailbox,
    operator: OperatorSection,
    *,
    at: datetime,
    authority: PracticeAuthority | None,
    custody: bool = True,
) -> tuple[Entry, dict[str, Issued]]:
    """Create the account and, in a practice trust space, its keys. Returns the entry to publish and the keys by usage.

    Without `custody` the operator does not keep the keys: it can neither sign nor open for this mailbox.
    Raises mailstore.StoreError (address taken).
    """
    client_key = public_key_digest(mailbox.client_certificate) if mailbox.client_certificate else None
    store.add_account(
        mailbox.address,
        mailbox.kind,
        display_name=mailbox.display_name,
        national_id=mailbox.national_id,
        password=mailbox.password,
        client_key=client_key,
        at=at,
    )
    keys = practice_keys(authority, mailbox, operator, at) if authority else {}
    for usage, issued in keys.items() if custody else ():
        private = issued.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        store.put_key(mailbox.address, usage, pem.chain_to_pem(issued.chain), private, at)
    return directory_entry(mailbox, operator, [issued.certificate for issued in keys.values()]), keys


def practice_keys(
    authority: PracticeAuthority, mailbox: NewMailbox, operator: OperatorSection, at: datetime
) -> dict[str, Issued]:
    """A person has one key to sign and one to be encrypted to (cps-card.md §3.8); a structure has one S/MIME key."""
    if mailbox.kind in PERSONAL:
        person = (mailbox.national_id, mailbox.surname, mailbox.given_name, mailbox.profession)
        return {
            "sign": authority.issue_professional(*person, usage="sign", email=mailbox.address, at=at),
            "encrypt": authority.issue_professional(*person, usage="encrypt", email=mailbox.address, at=at),
        }
    structure = (operator.organisation, operator.structure_id, operator.department)
    issued = authority.issue_organisation(mailbox.display_name, *structure, usage="smime", email=mailbox.address, at=at)
    return {"smime": issued}


def directory_entry(mailbox: NewMailbox, operator: OperatorSection, certificates: list[Certificate]) -> Entry:
    """The mailbox as the directory shows it (mssante.md §5.1)."""
    person = mailbox.kind in PERSONAL
    return Entry(
        dn=entry_dn(mailbox.address),
        mail=mailbox.address,
        kind=DirectoryKind(mailbox.kind.value),
        given_name=mailbox.given_name,
        surname=mailbox.surname,
        national_id=mailbox.national_id if person else "",
        profession=mailbox.profession_code,
        organisation=mailbox.display_name if not person else operator.organisation,
        structure_id=operator.structure_id,
        city=mailbox.city,
        certificates=tuple(certificates),
    )


def public_key_digest(certificate: Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: what binds a client certificate to an APP mailbox, across renewals."""
    digest = Hash(SHA256())
    digest.update(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()
