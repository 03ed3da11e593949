"""Data made by an older version of this program, brought to the present form before it is served.

Invariant: the old folder is only read; the new one is served once it is complete; killed in between, the old one is
upgraded again at the next start. Indexes are made anew with the entries: one added to the configuration alone would
silently find nothing in old entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from directory.backup import read_records
from directory.entry import OBJECT_CLASS, Attributes
from directory.generations import FORMAT
from directory.ldif_stream import record_bytes
from directory.naming import derived
from directory.rights import service_entries
from directory.stored import facts_of

if TYPE_CHECKING:
    from directory.installation import Installation


def upgrade(slapd: Installation, name: str) -> str:
    """The name of the data folder to serve: `name`, or the one made from it. Raises DirectoryError."""
    if slapd.generations.format(name) == FORMAT:
        return name
    fresh = slapd.generations.fresh()
    old = "slapd.data-old"
    slapd.configure(old, name)
    slapd.build(fresh, _upgraded(slapd, old))
    slapd.generations.adopt(fresh)
    return fresh


def _upgraded(slapd: Installation, configuration: str) -> Iterator[bytes]:
    seen: set[str] = set()
    for dn, attributes in read_records(slapd, configuration):
        seen.add(dn.lower())
        yield record_bytes(dn, refreshed(attributes))
    for dn, attributes in service_entries({}, slapd.base):
        if dn.lower() not in seen:
            yield record_bytes(dn, attributes)


def refreshed(attributes: Attributes) -> Attributes:
    """The entry with the derived attributes that its facts give today; other entries as they are."""
    if OBJECT_CLASS.lower().encode() not in [value.lower() for value in attributes.get("objectClass", [])]:
        return attributes
    values = {name: [value.encode() for value in some] for name, some in derived(facts_of(attributes)).items()}
    return {**attributes, **values}
