"""What becomes of one entry when an extraction is imported. Full load and daily difference both ask here, so both end alike.

Invariants: pure. The extraction wins over what it carries (`NATIONAL`), on the entries it keeps (`origine: extraction`); what
it does not carry stays (certificates, description, responsable, any attribute an administrator added). Entries of the operator
or of an administrator are never touched by it. The red list only grows here: what was hidden locally stays hidden. A
rejected row leaves what is served as it is.
"""

from __future__ import annotations

import functools
from typing import Final

import ldap

from directory.entry import EXTRACTION, OBJECT_CLASS, Attributes
from directory.naming import DERIVED

NATIONAL: Final = (
    "mail", "TypeBAL", "givenName", "sn", "profession", "savoirFaire", "o", "ou", "l", "postalCode", "street",
    "dematerialisation", "listeRouge", "diplome", "autorisation", "origine", "idNatStruct", "IdentifiantPP",
    "TypeIdentifiantPP", "IdentifiantPM", "TypeIdentifiantPM", *DERIVED,
)  # fmt: skip
_OURS: Final = OBJECT_CLASS.encode()
_CLASS: Final = _OURS.lower()
_CARRIED: Final = frozenset(NATIONAL)
_NATIONAL: Final = {name.lower(): name for name in NATIONAL}
OPERATIONAL: Final = frozenset(
    {
        "structuralobjectclass", "entryuuid", "entrycsn", "creatorsname", "createtimestamp", "modifiersname",
        "modifytimestamp", "contextcsn", "subschemasubentry", "hassubordinates", "entrydn", "pwdchangedtime",
    }
)  # fmt: skip

Modifications = list[tuple[int, str, list[bytes] | None]]


def is_mailbox(attributes: Attributes) -> bool:
    """Whether an entry as stored is a mailbox."""
    classes = attributes.get("objectClass", ())
    return _OURS in classes or any(value.lower() == _CLASS for value in classes)


def from_extraction(attributes: Attributes) -> bool:
    """Whether the extraction keeps this entry up to date."""
    return EXTRACTION.encode() in attributes.get("origine", [])


@functools.lru_cache(maxsize=512)
def _own_name(name: str) -> str:
    """A national attribute's name in its own case, another's as it is; empty for what slapd keeps for itself."""
    return "" if name.lower() in OPERATIONAL else _NATIONAL.get(name.lower(), name)


def user_attributes(attributes: Attributes) -> Attributes:
    """Without what slapd keeps for itself; names of national attributes in their own case."""
    return {own: values for name, values in attributes.items() if (own := _own_name(name))}


def merged(present: Attributes, national: Attributes | None, *, rejected: bool) -> Attributes | None:
    """The attributes that a mailbox, stored with those `present` (`user_attributes`), must have; None to remove it."""
    if rejected or not from_extraction(present):
        return present
    if national is None:
        return None
    after = {name: values for name, values in present.items() if name not in _CARRIED} | national
    if b"TRUE" in present.get("listeRouge", []):
        after["listeRouge"] = [b"TRUE"]
    return after


def modifications(present: Attributes, wanted: Attributes) -> Modifications:
    """What `ldap.modify` needs to turn one into the other (both without slapd's own); empty when they are the same."""
    if present == wanted:
        return []
    changes: Modifications = []
    for name in {**present, **wanted}:
        before, after = present.get(name, []), wanted.get(name, [])
        if before != after and (name == "cn" or sorted(before) != sorted(after)):  # the first `cn` is the shown one
            changes.append((ldap.MOD_REPLACE, name, after or None))
    return changes
