"""The states of a session, and what is announced in each, as data (RFC 3501 §3, §6.1.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from imap.values import Command

if TYPE_CHECKING:
    from imap.session import Session


class State(Enum):
    """RFC 3501 §3."""

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
    """How a command ended well: the tagged OK's text and its response code. `silent`: the answer has gone out already."""

    text: str
    code: str = ""
    silent: bool = False


Handler = Callable[["Session", Command], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: where it is allowed, what carries it out, and whether EXPUNGE may be sent while it runs
    (RFC 3501 §7.4.1 forbids it for FETCH, STORE and SEARCH without UID)."""

    name: str
    states: frozenset[State]
    handler: Handler
    expunge_allowed: bool = True


@dataclass(frozen=True, slots=True)
class Moment:
    """What a capability's presence depends on."""

    state: State
    tls: bool
    can_start_tls: bool


@dataclass(frozen=True, slots=True)
class Capability:
    """A word of the CAPABILITY response and when it is said."""

    name: str
    when: Callable[[Moment], bool]


def _always(_: Moment) -> bool:
    return True


def _before_login(moment: Moment) -> bool:
    return moment.state is State.NOT_AUTHENTICATED


def _after_login(moment: Moment) -> bool:
    return moment.state is not State.NOT_AUTHENTICATED


CAPABILITIES = (
    Capability("IMAP4rev1", _always),
    Capability("ID", _always),
    Capability("ENABLE", _always),
    Capability("STARTTLS", lambda moment: moment.can_start_tls and not moment.tls),
    Capability("LOGINDISABLED", lambda moment: not moment.tls),
    Capability("AUTH=PLAIN", lambda moment: moment.tls and _before_login(moment)),
    Capability("SASL-IR", lambda moment: moment.tls and _before_login(moment)),
    Capability("LITERAL-", _before_login),
    *(
        Capability(name, _after_login)
        for name in (
            "LITERAL+",
            "IDLE",
            "NAMESPACE",
            "CHILDREN",
            "SPECIAL-USE",
            "CREATE-SPECIAL-USE",
            "LIST-EXTENDED",
            "LIST-STATUS",
            "UIDPLUS",
            "UNSELECT",
            "MOVE",
            "ESEARCH",
            "CONDSTORE",
        )
    ),
)


def capability_text(moment: Moment, message_size: int) -> str:
    """The words of CAPABILITY at this moment, `CAPABILITY` itself in front."""
    words = [capability.name for capability in CAPABILITIES if capability.when(moment)]
    if _after_login(moment):
        words.append(f"APPENDLIMIT={message_size}")
    return " ".join(["CAPABILITY", *words])
