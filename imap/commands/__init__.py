"""The commands, one module per family; each exports its verbs as data."""

from imap.commands import (
    access,
    acl,
    append,
    fetch,
    folders,
    general,
    idle,
    listing,
    quota,
    search,
    selection,
    store,
    transfer,
)
from imap.states import Verb

_FAMILIES = (
    access,
    acl,
    append,
    fetch,
    folders,
    general,
    idle,
    listing,
    quota,
    search,
    selection,
    store,
    transfer,
)
VERBS: dict[str, Verb] = {verb.name: verb for family in _FAMILIES for verb in family.VERBS}

__all__ = ["VERBS"]
