"""Keeps the directories in line with this operator's mailboxes: created, suspended, on the red list, opened again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import structlog
from cryptography.x509.oid import NameOID
from ldap.dn import escape_dn_chars

from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.mailboxes import PERSONAL
from caducee.settings import OperatorSection, Settings
from directory import Directory, DirectoryError, Entry, Slapd, entry_dn
from directory import MailboxKind as DirectoryKind
from directory.publication import NationalPublisher, Operation, request
from directory.revocation import PublishedAuthority, put
from mailstore import Account, Store, StoreError
from trustspace import pem

CREATED = "créée"
CHANGED = "modifiée"
_EVERY_SECONDS = 60.0


def published(
    directory: Directory, account: Account, operator: OperatorSection, *, red_list: bool | None = None
) -> tuple[Entry, str]:
    """The directory's entry of `account` once it is right, and what was done ("" when nothing was needed).

    A suspended mailbox keeps its entry, hidden from everybody but the operator. `red_list` None leaves it as it is. Raises
    DirectoryError, DirectoryUnavailable.
    """
    present = directory.by_address(account.address)
    wanted = present or _entry(account, operator)
    wanted = replace(wanted, suspended=not account.active)
    if red_list is not None:
        wanted = replace(wanted, red_list=red_list)
    if wanted == present:
        return wanted, ""
    directory.publish(wanted)
    return wanted, CHANGED if present else CREATED


def _entry(account: Account, operator: OperatorSection) -> Entry:
    """What the account itself says. Names come from the shown name: `Prénom NOM`."""
    personal = account.kind in PERSONAL
    given, _, surname = account.display_name.rpartition(" ")
    return Entry(
        dn=entry_dn(account.address),
        mail=account.address,
        kind=DirectoryKind(account.kind.value),
        given_name=given if personal else "",
        surname=surname if personal else "",
        national_id=account.national_id if personal else "",
        organisation=operator.organisation if personal else account.display_name,
        structure_id=operator.structure_id,
    )


def national_publisher(folder: OperatorFolder, settings: Settings) -> Callable[[Entry, str], str]:
    """Publishes an entry to the national directory of the settings; returns what it answered. Raises UsageError."""
    section = settings.directory
    if not section.national_url:
        raise UsageError(
            "directory.national_url: vide, rien n'est publié au niveau national / empty: no national publication"
        )
    headers = {}
    if section.national_key_file:
        path = folder.resolve(section.national_key_file)
        try:
            headers["ESANTE-API-KEY"] = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"directory.national_key_file: {path}: {error.strerror}") from None
    verify: str | bool = str(folder.resolve(section.national_ca_file)) if section.national_ca_file else True
    client = httpx.Client(headers=headers, verify=verify, timeout=10.0, trust_env=False, follow_redirects=False)
    publisher = NationalPublisher(client, section.national_url)

    def send(entry: Entry, change: str) -> str:
        return publisher.send(request(entry, operation(change))).value

    return send


def operation(change: str) -> Operation:
    """What is asked of the national directory for a change of ours."""
    return Operation.INSERT if change == CREATED else Operation.REPLACE


def write_requests(path: Path, entries: Sequence[tuple[Entry, str]]) -> None:
    """Write the national requests of `entries` to a new file, one JSON object a line: path and body."""
    with path.open("x", encoding="utf-8") as file:
        for entry, change in entries:
            wanted = request(entry, operation(change))
            file.write(
                json.dumps({"method": "PATCH", "path": wanted.path, "body": wanted.body}, ensure_ascii=False) + "\n"
            )


def publish_authorities(folder: OperatorFolder, slapd: Slapd) -> list[str]:
    """Put the authorities of the trust space and their CRLs under `ou=ac` of the private directory; returns their names.

    Raises DirectoryError, TrustSpaceError (a file that cannot be read).
    """
    places = (folder.trust / "anchors", folder.trust / "anchors" / "clients", folder.trust / "intermediates")
    certificates = [one for place in places if place.is_dir() for one in pem.read_certificate_folder(place)]
    lists = [pem.read_crl(path) for path in pem.crl_files(folder.trust / "crl")]
    names = []
    with slapd.manager() as connection:
        for subject in dict.fromkeys(one.subject for one in certificates):
            found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            name = str(found[0].value) if found else subject.rfc4514_string()
            authority = PublishedAuthority(
                tuple(dict.fromkeys(one for one in certificates if one.subject == subject)),
                tuple(one for one in lists if one.issuer == subject),
            )
            put(connection, f"cn={escape_dn_chars(name)},ou=ac,{slapd.base}", authority.attributes(name))
            names.append(name)
    return names


async def keep_published(store: Store, directory: Directory, settings: Settings, stop: asyncio.Event) -> None:
    """Bring the published entries in line with the mailboxes, at once and then every minute, until `stop`.

    Accounts are opened and suspended by commands, in other processes: looking is what finds them all. A directory that is
    down or refuses is met again a minute later.
    """
    log = structlog.get_logger()
    while not stop.is_set():
        try:
            await asyncio.to_thread(_publish_all, store, directory, settings)
        except (DirectoryError, StoreError) as error:
            log.warning("publication put off", error=type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _EVERY_SECONDS)


def _publish_all(store: Store, directory: Directory, settings: Settings) -> None:
    for account in store.accounts():
        # One opened with --no-publish is not there, and stays so until `caducee directory publish`.
        if account.address.rpartition("@")[2] in settings.operator.domains and directory.by_address(account.address):
            published(directory, account, settings.operator)
