"""Statements of the hot paths: put into words once for each kind of database, then run by its driver.

SQLAlchemy takes 30 microseconds to run a statement that SQLite carries out in two. What every message costs is therefore
worded here once, by SQLAlchemy's own compiler, and handed to the driver with its values.

Invariants: the transaction is the connection's own, begun before the first statement; an error is the one SQLAlchemy would
raise, so that `mailstore.database` words it for people; rows are the driver's own tuples: numbers, texts and octets only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, Connection, Dialect, bindparam
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement

Values = Mapping[str, Any]
Row = tuple[Any, ...]
_Convert = Callable[[Any], Any]


class _Worded:
    """A statement as one driver takes it: its text, and where its values come from."""

    __slots__ = ("_constants", "_converts", "_names", "_take", "text")

    def __init__(self, text: str, places: Sequence[_Place], *, positional: bool) -> None:
        self.text = text
        self._take = _taker([place.given or place.name for place in places])
        self._constants = {place.name: place.constant for place in places if not place.given}
        self._converts = [(at, place.convert) for at, place in enumerate(places) if place.convert is not None]
        self._names = None if positional else [place.name for place in places]

    def values(self, given: Values) -> Any:
        """The values in the driver's form."""
        found = self._take({**self._constants, **given} if self._constants else given)
        if self._converts:
            found = list(found)
            for at, convert in self._converts:
                found[at] = convert(found[at])
        return found if self._names is None else dict(zip(self._names, found, strict=True))


@dataclass(frozen=True, slots=True)
class _Place:
    """One value of a statement: its name in the text, its name among those given ("" for a constant), how it is converted,
    the constant."""

    name: str
    given: str
    convert: _Convert | None
    constant: Any


def _taker(names: Sequence[str]) -> Callable[[Values], Sequence[Any]]:
    """What takes these values out of those given, in their order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]


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

    def run(self, connection: Connection, rows: Sequence[Values]) -> int:
        """Run it for each of `rows`; how many rows of the database it changed."""
        if not rows:
            return 0
        many = len(rows) > 1
        return int(self._run(connection, rows if many else rows[0], many=many).rowcount)

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
    for name in compiled.positiontup if compiled.positional else named:
        bind = named[name]
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        places.append(_Place(name, bind.key if bind.required else "", convert, None if bind.required else bind.value))
    return _Worded(str(compiled), places, positional=bool(compiled.positional))
