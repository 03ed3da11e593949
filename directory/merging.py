"""What becomes of one entry when an extraction is imported. Full load and daily difference both ask here, so both end alike.

Invariants: pure. The extraction wins over what it carries (`NATIONAL`), on the entries it keeps (`origine: extraction`); what
it does not carry stays (certificates, description, responsable, any attribute an administrator added). Entries of the operator
or of an administrator are never touched by it. The red list only grows here: what was hidden locally stays hidden. A
rejected row leaves what is served as it is.
"""

from __future__ import annotations

from typing import Final

import ldap

from directory.entry import EXTRACTION, OBJECT_CLASS, Attributes
from directory.naming import DERIVED

NATIONAL: Final = (
    "mail", "TypeBAL", "givenName", "sn", "profession", "savoirFaire", "o", "ou", "l", "postalCode", "street",
    "dematerialisation", "listeRouge", "diplome", "autorisation", "origine", "idNatStruct", "IdentifiantPP",
    "TypeIdentifiantPP", "IdentifiantPM", "TypeIdentifiantPM", *DERIVED,
)  # fmt: skip
_CLASS: Final = OBJECT_CLASS.lower().encode()
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
    return any(value.lower() == _CLASS for value in attributes.get("objectClass", ()))


def from_extraction(attributes: Attributes) -> bool:
    """Whether the extraction keeps this entry up to date."""
    return EXTRACTION.encode() in attributes.get("origine", [])


def user_attributes(attributes: Attributes) -> Attributes:
    """Without what slapd keeps for itself; names of national attributes in their own case."""
    return {_NATIONAL.get(k.lower(), k): v for k, v in attributes.items() if k.lower() not in OPERATIONAL}


def merged(existing: Attributes, national: Attributes | None, *, rejected: bool) -> Attributes | None:
    """The attributes (slapd's own left out) that a stored mailbox must have; None to remove it."""
    present = user_attributes(existing)
    if rejected or not from_extraction(present):
        return present
    if national is None:
        return None
    after = {name: values for name, values in present.items() if name not in _NATIONAL.values()} | national
    if b"TRUE" in present.get("listeRouge", []):
        after["listeRouge"] = [b"TRUE"]
    return after


def modifications(existing: Attributes, wanted: Attributes) -> Modifications:
    """What `ldap.modify` needs to turn one into the other; empty when they are the same."""
    present = user_attributes(existing)
    changes: Modifications = []
    for name in {**present, **wanted}:
        before, after = present.get(name, []), wanted.get(name, [])
        if before != after and (name == "cn" or sorted(before) != sorted(after)):  # the first `cn` is the shown one
            changes.append((ldap.MOD_REPLACE, name, after or None))
    return changes
