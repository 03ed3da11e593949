"""The commands, one module per family; each exports its verbs as data."""

from imap.commands import access, append, fetch, folders, general, search, selection, store, transfer
from imap.states import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb
    for family in (access, append, fetch, folders, general, search, selection, store, transfer)
    for verb in family.VERBS
}

__all__ = ["VERBS"]
