"""The states of a session, and what a command is, as data (RFC 9051 §3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from imap.values import Command

if TYPE_CHECKING:
    from imap.session import Session


class State(Enum):
    """RFC 9051 §3."""

    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"
    LOGOUT = "logout"


ANY = frozenset({State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED})
BEFORE_LOGIN = frozenset({State.NOT_AUTHENTICATED})
AFTER_LOGIN = frozenset({State.AUTHENTICATED, State.SELECTED})
IN_FOLDER = frozenset({State.SELECTED})


@dataclass(frozen=True, slots=True)
class Reply:
    """How a command ended well: the tagged OK's text and its response code. `silent`: the answer has gone out already.
    `with_modseq`: the OK also says what modseq the client is up to (RFC 7162 §3.2.7), unless it says something else."""

    text: str
    code: str = ""
    silent: bool = False
    with_modseq: bool = False


Handler = Callable[["Session", Command], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: where it is allowed, what carries it out, and whether EXPUNGE may be sent while it runs (RFC 9051
    §7.5.1 forbids it for FETCH, STORE and SEARCH without UID)."""

    name: str
    states: frozenset[State]
    handler: Handler
    expunge_allowed: bool = True
