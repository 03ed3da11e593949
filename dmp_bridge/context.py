"""What a deposit carries about its sender: the bridge writes it at acceptance, the worker reads it back later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class DepositContext:
    """Who deposits. Sealed at rest by the store, opaque to it.

    `structure_id` is Struct_IdNat (`1`+FINESS, `3`+SIRET): the VIHF's Identifiant_Structure. `sector` is a JDV_J61 code (SAxx).
    `responsible_id` is the PS_IdNat (`8`+RPPS) of the person answerable for the sending mailbox, empty for a structure's mailbox;
    `profession` and `specialty` are G15 / R01 codes for the VIHF's roles. `practice` is the environment: test identities
    (1.2.250.1.213.1.4.10, .11) in practice, production identities (.8, .9) otherwise, never mixed (dmp.md §13).
    `refuse_style_sheet`: refuse a CDA that points to a separate style sheet (dmp.md §4.7: every official example does).
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

    def to_json(self) -> bytes:
        """The context as UTF-8 JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> DepositContext:
        """Read what `to_json` wrote; unknown members are ignored (a newer version's). Raises ValueError, TypeError."""
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("a deposit context is a JSON object")
        known = {item.name: item for item in fields(cls)}
        values = {name: value for name, value in raw.items() if name in known}
        for name, value in values.items():
            expected = bool if name in ("practice", "refuse_style_sheet") else str
            if not isinstance(value, expected):
                raise ValueError(f"deposit context: {name} has the wrong type")
        return cls(**values)
