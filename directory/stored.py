"""Reading entries as they are stored: attributes by any case of their names, and the facts derived attributes come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from directory.naming import Facts


def texts(attributes: Mapping[str, Sequence[bytes]], name: str) -> list[str]:
    """The values of an attribute as text, whatever the case of its name."""
    values = attributes.get(name)
    if values is None:
        lowered = name.lower()
        values = next((some for key, some in attributes.items() if key.lower() == lowered), ())
    return [value.decode("utf-8", "replace") for value in values]


def facts_of(attributes: Mapping[str, Sequence[bytes]]) -> Facts:
    """What the derived attributes of a stored entry are made of."""

    def first(name: str) -> str:
        return next(iter(texts(attributes, name)), "")

    return Facts(
        given_name=first("givenName"),
        surname=first("sn"),
        profession=first("profession"),
        specialities=tuple(texts(attributes, "savoirFaire")),
        organisation=first("o"),
        service=first("ou"),
        description=first("description"),
        city=first("l"),
        postal_code=first("postalCode"),
        mail=first("mail"),
    )
