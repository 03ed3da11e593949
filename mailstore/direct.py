"""Statements of the hot paths: put into words once for each kind of database, then run by its driver.

SQLAlchemy takes 30 microseconds to run a statement that SQLite carries out in two. What every message costs is therefore
worded here once, by SQLAlchemy's own compiler, and handed to the driver with its values.

Invariants: the transaction is the connection's own, begun before the first statement; an error is the one SQLAlchemy would
raise, so that `mailstore.database` words it for people; rows are the driver's own tuples: numbers, texts and octets only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Dialect, bindparam
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement

Values = Mapping[str, Any]
Row = tuple[Any, ...]
_Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Worded:
    """A statement as one driver takes it: its text, and what each of its values is: its name there, its name among those
    given ("" for a constant), how it is converted, the constant."""

    text: str
    places: tuple[tuple[str, str, _Convert | None, Any], ...]
    positional: bool

    def values(self, given: Values) -> Any:
        """The values in the driver's form."""
        found = [given[name] if name else constant for _, name, _, constant in self.places]
        found = [
            value if place[2] is None else place[2](value) for place, value in zip(self.places, found, strict=True)
        ]
        return found if self.positional else {place[0]: value for place, value in zip(self.places, found, strict=True)}


class Direct:
    """One statement. `columns` are those of an INSERT, whose values each run gives."""

    def __init__(self, statement: ClauseElement | Callable[[Connection], ClauseElement], *columns: str) -> None:
        """`statement` is a function of the connection when the two databases word it differently."""
        self._statement = statement
        self._columns = columns
        self._worded: dict[str, _Worded] = {}

    def all(self, connection: Connection, values: Values) -> list[Row]:
        """Run it; every row."""
        rows: list[Row] = self._run(connection, values, many=False).fetchall()
        return rows

    def first(self, connection: Connection, values: Values) -> Row | None:
        """Run it; the first row, or None."""
        row: Row | None = self._run(connection, values, many=False).fetchone()
        return row

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it for each of `rows`."""
        if len(rows) == 1:
            self._run(connection, rows[0], many=False)
        elif rows:
            self._run(connection, rows, many=True)

    def _run(self, connection: Connection, values: Any, *, many: bool) -> Any:
        worded = self._worded.get(connection.dialect.name) or self._word(connection)
        given = [worded.values(one) for one in values] if many else worded.values(values)
        return execute(connection, worded.text, given, many=many)

    def _word(self, connection: Connection) -> _Worded:
        statement = self._statement(connection) if callable(self._statement) else self._statement
        worded = _word(statement, connection.dialect, self._columns)
        self._worded[connection.dialect.name] = worded
        return worded


class DirectAmong:
    """One SELECT that looks for some values among many: `build` makes it with one parameter for each. The number of
    parameters is a power of two, so that few texts are made; the last value fills up."""

    def __init__(self, build: Callable[[list[BindParameter[Any]]], ClauseElement], most: int = 512) -> None:
        self._build = build
        self._most = most
        self._sized: dict[int, Direct] = {}

    def all(self, connection: Connection, values: Values, sought: Sequence[Any]) -> list[Row]:
        """The rows of all of `sought`, looked for `most` at a time."""
        rows: list[Row] = []
        for start in range(0, len(sought), self._most):
            batch = sought[start : start + self._most]
            size = 1 << (len(batch) - 1).bit_length()
            filled = [*batch, *[batch[-1]] * (size - len(batch))]
            named = {f"sought_{number}": value for number, value in enumerate(filled)}
            rows += self._of(size).all(connection, {**values, **named})
        return rows

    def _of(self, size: int) -> Direct:
        made = self._sized.get(size)
        if made is None:
            made = self._sized[size] = Direct(self._build([bindparam(f"sought_{number}") for number in range(size)]))
        return made


def execute(connection: Connection, text: str, values: Any = (), *, many: bool = False) -> Any:
    """Run a text in the connection's transaction, by the driver; its cursor. Raises what SQLAlchemy would."""
    if not connection.in_transaction():
        connection.begin()
    cursor = connection.connection.cursor()
    try:
        if many:
            cursor.executemany(text, values)
        else:
            cursor.execute(text, values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise as_sqlalchemy(connection, text, error) from error
    return cursor


def as_sqlalchemy(connection: Connection, text: str, error: Any) -> BaseException:
    """What SQLAlchemy makes of a driver's error; after one that ended a connection, none of its time is used again."""
    dialect = connection.dialect
    if dialect.is_disconnect(error, connection.connection, None):
        connection.invalidate(error)
        connection.engine.dispose()
    base = dialect.loaded_dbapi.Error
    told: BaseException = DBAPIError.instance(text, None, error, base, hide_parameters=True, dialect=dialect)
    return told


def _word(statement: ClauseElement, dialect: Dialect, columns: tuple[str, ...]) -> _Worded:
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(columns) or None)
    named = {name: bind for bind, name in compiled.bind_names.items()}
    places = []
    for place in compiled.positiontup if compiled.positional else named:
        bind = named[place]
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        places.append((place, bind.key if bind.required else "", convert, None if bind.required else bind.value))
    return _Worded(str(compiled), tuple(places), bool(compiled.positional))
