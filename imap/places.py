"""Where a mailbox name leads: to a folder of one's own, or to one that another mailbox shares (RFC 4314, RFC 2342).

Shared folders are shown as `Partages/<address>/<folder>`: the other users' namespace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from imap.errors import Refused
from imap.listing import DELIMITER
from mailstore import Store
from mailstore.model import Account, Folder, NoSuchFolder

SHARED = "Partages"
ALL_RIGHTS = "lrswipkxtea"  # in the order of RFC 4314 §2.1


@dataclass(frozen=True, slots=True)
class Place:
    """`name` is the folder's name in the mailbox of `owner`; `shown` as this session names it. `viewer` is the session's
    account when it is not the owner."""

    owner: int
    name: str
    shown: str
    viewer: int | None


def place_of(store: Store, account: Account, name: str) -> Place:
    """The place of a name, which need not exist. Raises NoSuchFolder for the shared mailbox of somebody who shares none."""
    first, _, rest = name.partition(DELIMITER)
    if first != SHARED:
        return Place(account.id, name, name, None)
    address, _, inner = rest.partition(DELIMITER)
    owner = next((one for one in store.shared_with(account.id) if one.address == address.lower()), None)
    if owner is None or not inner:
        raise NoSuchFolder("Ce dossier n'existe pas. / This folder does not exist.")
    if inner.upper() == "INBOX" or inner.upper().startswith("INBOX/"):
        inner = "INBOX" + inner[5:]
    return Place(owner.id, inner, name, account.id)


def folder_at(store: Store, place: Place, rights: str = "") -> Folder:
    """The folder at a place. Raises NoSuchFolder: it is not there, or this session may not know that it is; Refused
    NOPERM: it may know, but lacks one of `rights`."""
    folder = store.folder(place.owner, place.name, viewer=place.viewer)
    if place.viewer is not None:
        held = store.rights(folder.id, place.viewer)
        # RFC 4314 §6: without l, the answer is that of a folder that does not exist.
        if "l" not in held and not set(rights) & set(held):
            raise NoSuchFolder("Ce dossier n'existe pas. / This folder does not exist.")
        if not set(rights) <= set(held):
            raise Refused("NOPERM", "Droit insuffisant sur ce dossier. / Permission denied on this folder.")
    return replace(folder, name=place.shown)


def rights_at(store: Store, folder: Folder, place: Place) -> str:
    """The rights this session holds on a folder."""
    return ALL_RIGHTS if place.viewer is None else store.rights(folder.id, place.viewer)


def all_folders(store: Store, account: Account) -> list[Folder]:
    """Every folder the session may list, shared ones under their shown names."""
    found = store.folders(account.id)
    for owner in store.shared_with(account.id):
        for folder in store.folders(owner.id, viewer=account.id):
            if "l" in store.rights(folder.id, account.id):
                shown = DELIMITER.join((SHARED, owner.address, folder.name))
                found.append(replace(folder, name=shown, subscribed=False, special_use=""))
    return found
