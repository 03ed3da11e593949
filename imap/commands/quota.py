"""GETQUOTA, GETQUOTAROOT, SETQUOTA (RFC 9208). Each mailbox has one quota root, named after its address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.places import SHARED
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Command, Mailbox, QuotaRoot

if TYPE_CHECKING:
    from imap.session import Session


async def _send_quota(session: Session, root: str, owner: int) -> None:
    """One QUOTA response. STORAGE is in units of 1024 octets; what has no limit is not listed (RFC 9208 §3)."""
    quota = await session.call(session.store.quota, owner)
    resources: list[str] = []
    if quota.bytes_limit is not None:
        resources.append(f"STORAGE {-(-quota.bytes_used // 1024)} {quota.bytes_limit // 1024}")
    if quota.messages_limit is not None:
        resources.append(f"MESSAGE {quota.messages_used} {quota.messages_limit}")
    text = " ".join(resources).encode("ascii")
    await session.send(b"* QUOTA " + fmt.string(root.encode("utf-8")) + b" (" + text + b")\r\n")


async def _get_quota(session: Session, command: Command) -> Reply:
    if not isinstance(command.arguments, QuotaRoot):
        raise BadCommand("malformed GETQUOTA")
    root = command.arguments.root.lower()
    if root in ("", session.account.address):
        owner = session.account.id
    else:
        place = await session.locate(f"{SHARED}/{root}/INBOX")
        owner = place.owner
    await _send_quota(session, root, owner)
    return Reply("GETQUOTA completed")


async def _get_quota_root(session: Session, command: Command) -> Reply:
    """RFC 9208 §4.1.2: the name need not be that of a folder."""
    if not isinstance(command.arguments, Mailbox):
        raise BadCommand("malformed GETQUOTAROOT")
    place = await session.locate(command.arguments.name)
    root = session.account.address if place.viewer is None else command.arguments.name.split("/")[1].lower()
    name = fmt.mailbox(command.arguments.name, utf8=session.utf8)
    await session.send(b"* QUOTAROOT " + name + b" " + fmt.string(root.encode("utf-8")) + b"\r\n")
    await _send_quota(session, root, place.owner)
    return Reply("GETQUOTAROOT completed")


async def _set_quota(session: Session, command: Command) -> Reply:
    raise Refused("NOPERM", "Le quota est réglé par l'opérateur. / The operator sets quotas.")


VERBS = (
    Verb("GETQUOTA", AFTER_LOGIN, _get_quota),
    Verb("GETQUOTAROOT", AFTER_LOGIN, _get_quota_root),
    Verb("SETQUOTA", AFTER_LOGIN, _set_quota),
)
