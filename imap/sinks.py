"""Where the literal of an APPEND or REPLACE goes: straight into an encrypted upload of the store (RFC 9051 §6.3.12).

Invariant: a client that disappears, or a command that fails, leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap.errors import Refused
from imap.places import Place, folder_at, place_of
from mailstore import Store, Upload
from mailstore.model import Account, MessageTooLarge, NoSuchFolder, OverQuota

if TYPE_CHECKING:
    from imap.session import Session


class UploadSink:
    """A message on its way. `upload` is taken over by the command that stores it."""

    __slots__ = ("_binary", "_session", "upload")

    def __init__(self, session: Session, upload: Upload, *, binary: bool) -> None:
        self._session = session
        self._binary = binary
        self.upload = upload

    @property
    def size(self) -> int:
        """Octets received."""
        return self.upload.size

    async def write(self, data: bytes) -> None:
        """Adds octets. Raises Refused: NUL (RFC 9051 §4.3: no literal but a literal8 has one, and RFC 3516 §4.3.1 lets a
        server refuse to keep it), or more than allowed."""
        if b"\x00" in data:
            code = "UNKNOWN-CTE" if self._binary else "CANNOT"
            raise Refused(code, "A message with NUL octets is not stored")
        try:
            if self.upload.stays_in_memory(len(data)):
                self.upload.write(data)
            else:
                await self._session.call(self.upload.write, data)
        except MessageTooLarge as error:
            raise Refused("TOOBIG", str(error)) from None

    async def discard(self) -> None:
        """Forgets the message, unless it was stored."""
        if self.upload.on_disk:
            await self._session.call(self.upload.discard)
        else:
            self.upload.discard()


async def open_sink(session: Session, name: str, size: int, *, binary: bool, unasked: bool) -> UploadSink:
    """A sink for a message of `size` octets announced for a mailbox. Raises Refused, StoreError: no such folder, no
    right to add to it, no room; the client has sent nothing of it yet, when it waits for the invitation. A small message
    that comes `unasked` is taken first: nothing is spared by asking twice what the command asks in any case."""
    if not size:
        raise Refused("CANNOT", "An empty message is not stored")
    upload = session.store.upload(session.limits.message_size)
    if not (unasked and upload.stays_in_memory(size)):
        await session.call(check_target, session.store, session.account, name, size)
    return UploadSink(session, upload, binary=binary)


def check_target(store: Store, account: Account, name: str, size: int) -> None:
    """Refuses what need not even come. Raises as `open_sink`."""
    place = target_of(store, account, name)
    quota = store.quota(place.owner)
    if quota.bytes_limit is not None and quota.bytes_used + size > quota.bytes_limit:
        raise OverQuota("La boîte est pleine. / The mailbox is full.")


def target_of(store: Store, account: Account, name: str, *, again: bool = False) -> Place:
    """Where messages may be added. With `again`, one's own folder is not looked for: adding to it will. Raises Refused,
    StoreError."""
    try:
        place = place_of(store, account, name)
        if place.viewer is not None or not again:
            folder_at(store, place, "i")
    except NoSuchFolder:
        raise no_target() from None
    return place


def no_target() -> Refused:
    """The refusal of a folder that is not there (RFC 9051 §6.3.12)."""
    return Refused("TRYCREATE", "Ce dossier n'existe pas. / No such folder.")
