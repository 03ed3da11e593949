"""What a deposit carries about its sender: the bridge writes it at acceptance, the worker reads it back later."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

DELETE = "delete"


@dataclass(frozen=True, slots=True)
class DepositContext:
    """Who deposits, what is asked beside the deposit itself, and who is to be told. Sealed at rest by the store, opaque to it.

    `structure_id` is Struct_IdNat (`1`+FINESS, `3`+SIRET): the VIHF's Identifiant_Structure. `sector` is a JDV_J61 code (SAxx).
    `responsible_id` is the PS_IdNat (`8`+RPPS) of the person answerable for the sending mailbox, empty for a structure's mailbox;
    `profession` and `specialty` are G15 / R01 codes for the VIHF's roles. `practice` is the environment: test identities
    (1.2.250.1.213.1.4.10, .11) in practice, production identities (.8, .9) otherwise, never mixed (dmp.md §13).
    `refuse_style_sheet`: refuse a CDA that points to a separate style sheet (dmp.md §4.7: every official example does).

    `action` is "" (deposit, or replacement when the CDA says so) or `delete`. `visibility` are the codes of dmp.md §3.8, and
    `secret_connection` hides the trace from legal representatives (VIHF, §2). `message_id` is the message's; `notify`
    the address to
    tell the outcome ("" for nobody), by an MDN when `wants_mdn`, as `addressed`, the mailbox the message had come to.
    `original` are the header lines of the message that stand for it in a receipt (RFC 6522 §3), kept only when one is wanted;
    `returned` says whether the whole message is kept to be given back: `message`, or why not: `size`, `form`, "" (not asked).
    `feed` and `control_id` name the HL7 v2 hand-over (MSH-10), `ack_reception` asks for its business acknowledgement (§8.4).
    """

    sender: str
    structure_id: str
    structure_name: str
    sector: str = "SA01"
    responsible_id: str = ""
    responsible_surname: str = ""
    responsible_given_name: str = ""
    profession: str = ""
    specialty: str = ""
    practice: bool = True
    refuse_style_sheet: bool = False
    action: str = ""
    visibility: tuple[str, ...] = ()
    secret_connection: bool = False
    message_id: str = ""
    notify: str = ""
    addressed: str = ""
    wants_mdn: bool = False
    original: tuple[str, ...] = field(default=(), repr=False)
    returned: str = ""
    feed: str = ""
    control_id: str = ""
    ack_reception: bool = False

    def to_json(self) -> bytes:
        """The context as UTF-8 JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> DepositContext:
        """Read what `to_json` wrote; unknown members are ignored (a newer version's). Raises ValueError, TypeError."""
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("a deposit context is a JSON object")
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name not in raw:
                continue
            value = raw[item.name]
            expected = str if item.default is MISSING else type(item.default)
            if expected is tuple:
                if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                    raise ValueError(f"deposit context: {item.name} has the wrong type")
                value = tuple(value)
            elif not isinstance(value, expected):
                raise ValueError(f"deposit context: {item.name} has the wrong type")
            values[item.name] = value
        return cls(**values)
