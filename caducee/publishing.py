"""Keeps the directories in line with this operator's mailboxes: created, suspended, on the red list, opened again, their
certificates issued, renewed, retired.

Invariants: commands publish what they change at once; what they could not (directory down), and what was changed by other
means, the mail process publishes within a minute (`keep_published`). Attributes an administrator added stay.
"""

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
from caducee.key_publication import certificates_to_publish
from caducee.mailboxes import PERSONAL
from caducee.sections import OperatorSection
from caducee.settings import Settings
from directory import Directory, DirectoryError, Entry, Slapd, entry_dn
from directory import MailboxKind as DirectoryKind
from directory.publication import Answer, NationalPublisher, Operation, request
from directory.revocation import PublishedAuthority, put
from mailstore import Account, KeyRecord, Store, StoreError
from trustspace import pem

CREATED = "créée"
CHANGED = "modifiée"
RESTORED = "rétablie"  # it was suspended or on the red list, and is seen again
_EVERY_SECONDS = 60.0
_EVERYTHING = 10  # passes between two that ask the directory about every mailbox


def published(
    directory: Directory,
    account: Account,
    operator: OperatorSection,
    keys: Sequence[KeyRecord] = (),
    *,
    red_list: bool | None = None,
) -> tuple[Entry, str]:
    """The directory's entry of `account` once it is right, and what was done ("" when nothing was needed).

    `keys` are all those the operator holds or held for it: the certificates of those in force are published, of the others
    taken out (see `key_publication`). A suspended mailbox keeps its entry, hidden from everybody but the operator.
    `red_list` None leaves it as it is. Raises DirectoryError, DirectoryUnavailable.
    """
    present = directory.by_address(account.address)
    wanted = present or _entry(account, operator)
    certificates = certificates_to_publish(wanted.certificates, keys)
    if set(certificates) != set(wanted.certificates):
        wanted = replace(wanted, certificates=certificates)
    wanted = replace(wanted, suspended=not account.active)
    if red_list is not None:
        wanted = replace(wanted, red_list=red_list)
    if wanted == present:
        return wanted, ""
    directory.publish(wanted)
    if present is None:
        return wanted, CREATED
    return wanted, RESTORED if _hidden(present) and not _hidden(wanted) else CHANGED


def _hidden(entry: Entry) -> bool:
    return entry.suspended or entry.red_list


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


NationalSend = Callable[[Entry, str], str]
"""Sends an entry, and what was done to it here; gives back a `publication.Answer`."""


def national_publisher(folder: OperatorFolder, settings: Settings) -> NationalSend:
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
    """What is asked of the national directory for a change of ours. What is hidden here was deleted there."""
    return Operation.INSERT if change in (CREATED, RESTORED) else Operation.REPLACE


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


async def keep_published(
    store: Store, directory: Directory, folder: OperatorFolder, settings: Settings, stop: asyncio.Event
) -> None:
    """Bring the published entries in line with the mailboxes, at once and then every minute, until `stop`.

    Accounts and keys are changed by commands, in other processes: looking is what finds them all. A directory that is down
    or refuses is met again a minute later.
    """
    national = national_publisher(folder, settings) if settings.directory.national_url else None
    follower = Follower(store, directory, settings.operator, national)
    while not stop.is_set():
        try:
            await asyncio.to_thread(follower.follow)
        except (DirectoryError, StoreError) as error:
            structlog.get_logger().warning("publication put off", error=type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _EVERY_SECONDS)


class Follower:
    """Publishes what changed in the mailboxes of the store since it last looked; from time to time looks at all.

    `national` sends a changed entry to the national directory (see `national_publisher`): what it cannot take now is sent
    again at the next pass, as long as this process lives; what it refuses is logged, for somebody to look at.
    """

    def __init__(
        self, store: Store, directory: Directory, operator: OperatorSection, national: NationalSend | None = None
    ) -> None:
        self._store, self._directory, self._operator = store, directory, operator
        self._national = national
        self._waiting: dict[str, tuple[Entry, str]] = {}
        self._passes = 0
        self._published: dict[str, object] = {}

    def follow(self) -> list[str]:
        """One pass; returns the addresses whose entries were changed. Raises DirectoryError, StoreError.

        A mailbox opened with --no-publish is not in the directory, and stays so until `caducee directory publish`.
        """
        if self._passes % _EVERYTHING == 0:
            self._published.clear()
        keys: dict[str, list[KeyRecord]] = {}
        for one in self._store.key_records():
            keys.setdefault(one.holder, []).append(one)
        changed = []
        for account in self._store.accounts():
            held = keys.get(account.address, [])
            state = (account, tuple((one.id, one.chain_pem, one.retired_at, one.destroyed_at) for one in held))
            ours = account.address.rpartition("@")[2] in self._operator.domains
            if not ours or self._published.get(account.address) == state:
                continue
            if self._directory.by_address(account.address) is not None:
                entry, change = published(self._directory, account, self._operator, held)
                if change:
                    changed.append(account.address)
                    self._waiting[account.address] = (entry, change)
            self._published[account.address] = state
        self._passes += 1
        self._send()
        return changed

    def _send(self) -> None:
        for address, (entry, change) in list(self._waiting.items()):
            try:
                answer = self._national(entry, change) if self._national else Answer.DONE
            except DirectoryError:  # nobody the national directory knows holds this mailbox
                answer = Answer.UNKNOWN_HOLDER
            if answer == Answer.LATER:
                return  # it is down: the others wait too
            del self._waiting[address]
            if answer != Answer.DONE:
                structlog.get_logger().error("national publication refused", account=address, state=str(answer))
