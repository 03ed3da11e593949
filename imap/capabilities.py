"""What is announced, and when, as data (RFC 9051 §6.1.1). Invariant: a name is here only when all of it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imap.states import State


@dataclass(frozen=True, slots=True)
class Moment:
    """What a capability's presence depends on. `certificate`: the client showed one; `tokens`: bearer tokens can be
    verified; `compress`: COMPRESS is offered and not yet on."""

    state: State
    tls: bool
    can_start_tls: bool
    certificate: bool = False
    tokens: bool = False
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """A word of the CAPABILITY response and when it is said."""

    name: str
    when: Callable[[Moment], bool]


def _always(_: Moment) -> bool:
    return True


def _before_login(moment: Moment) -> bool:
    return moment.state is State.NOT_AUTHENTICATED


def _logging_in(moment: Moment) -> bool:
    return moment.tls and _before_login(moment)


def _after_login(moment: Moment) -> bool:
    return moment.state is not State.NOT_AUTHENTICATED


_AFTER_LOGIN = (
    "LITERAL+",
    "IDLE",
    "NAMESPACE",
    "CHILDREN",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "STATUS=SIZE",
    "UIDPLUS",
    "UNSELECT",
    "MOVE",
    "MULTIAPPEND",
    "REPLACE",
    "BINARY",
    "ESEARCH",
    "SEARCHRES",
    "WITHIN",
    "SORT",
    "SORT=DISPLAY",
    "ESORT",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "CONDSTORE",
    "QRESYNC",
    "UTF8=ACCEPT",
    "OBJECTID",
    "SAVEDATE",
    "PREVIEW",
    "QUOTA",
    "QUOTA=RES-STORAGE",
    "QUOTA=RES-MESSAGE",
    "ACL",
    "RIGHTS=texk",
)
CAPABILITIES = (
    Capability("IMAP4rev1", _always),
    Capability("IMAP4rev2", _always),
    Capability("ID", _always),
    Capability("ENABLE", _always),
    Capability("STARTTLS", lambda moment: moment.can_start_tls and not moment.tls),
    Capability("LOGINDISABLED", lambda moment: not moment.tls),
    Capability("AUTH=PLAIN", _logging_in),
    Capability("AUTH=EXTERNAL", lambda moment: _logging_in(moment) and moment.certificate),
    Capability("AUTH=OAUTHBEARER", lambda moment: _logging_in(moment) and moment.tokens),
    Capability("AUTH=XOAUTH2", lambda moment: _logging_in(moment) and moment.tokens),
    Capability("SASL-IR", _logging_in),
    Capability("LITERAL-", _before_login),
    *(Capability(name, _after_login) for name in _AFTER_LOGIN),
    Capability("COMPRESS=DEFLATE", lambda moment: _after_login(moment) and moment.compress),
)


def capability_text(moment: Moment, message_size: int) -> str:
    """The words of CAPABILITY at this moment, `CAPABILITY` itself in front; `message_size` in octets (RFC 7889)."""
    words = [capability.name for capability in CAPABILITIES if capability.when(moment)]
    if _after_login(moment):
        words.append(f"APPENDLIMIT={message_size}")
    return " ".join(["CAPABILITY", *words])
