"""Columns of unusual names as the contract's: ``{"user_id": "customer", "searches.query": "keyword"}``.

``COLUMN`` means the column of every table that has the name; ``TABLE.COLUMN`` that of one table. A mapped column wins over one
that bears the contract's name already, which is then ignored. Letters' case does not matter.
"""

from collections.abc import Mapping
from typing import Any

import duckdb

from seerec.data.columns import columns_of
from seerec.data.files import tidy
from seerec.data.sql import quoted
from seerec.errors import SeerecError

COLUMNS = {
    "recommendations": ("user_id", "item_id", "timestamp", "clicked", "request_id", "announced"),
    "searches": ("user_id", "search_id", "timestamp", "query", "item_id", "clicked", "relevant"),
    "items": ("item_id", "title"),
    "users": ("user_id",),
}
"""What can be mapped: the columns of the contract that bear a name of their own."""
_EXAMPLE = 'Give columns={"user_id": "customer", "searches.query": "keyword"}, or --map user_id=customer.'


def apply_mapping(connection: duckdb.DuckDBPyConnection, mapping: Any) -> None:
    """Rename columns of the tables ``raw_TABLE`` that are there.

    Raises
    ------
    SeerecError
        A column is not of the contract, no table has the name, a table is not there, or something is mapped twice.
    """
    if not isinstance(mapping, Mapping) or not all(isinstance(part, str) for pair in mapping.items() for part in pair):
        raise SeerecError(f"The columns are {mapping!r}, which are no names with names.", _EXAMPLE)
    tables = {table: columns_of(connection, f"raw_{table}") for table in COLUMNS}
    tables = {table: {name.lower(): name for name in columns if name != "line"} for table, columns in tables.items() if columns}
    chosen: dict[str, dict[str, str]] = {table: {} for table in tables}
    for key, given in mapping.items():
        wanted, name = key.strip().lower(), tidy([given])[0]
        table, dot, column = wanted.rpartition(".")
        _check(key, table if dot else None, column, tables)
        bearing = [one for one in tables if (not dot or one == table) and column in COLUMNS[one] and name.lower() in tables[one]]
        if not bearing:
            raise _missing(key, name, table if dot else None, column, tables)
        for one in bearing:
            _choose(one, column, tables[one][name.lower()], chosen[one])
    for table, columns in chosen.items():
        _rename(connection, table, columns, tables[table])


def _check(key: str, table: str | None, column: str, tables: Mapping[str, Any]) -> None:
    """Refuse a table or column that the contract does not know, and a table that was not given."""
    if table is not None and table not in COLUMNS:
        raise SeerecError(f"{key} is to be mapped, but there is no table {table}.", f"The tables are {', '.join(COLUMNS)}.")
    if table is not None and table not in tables:
        raise SeerecError(f"{key} is to be mapped, but no {table} table is given.", f"Give {table}=, or leave {key} out.")
    known = COLUMNS[table] if table else sorted({name for names in COLUMNS.values() for name in names})
    if column not in known:
        raise SeerecError(
            f"{key} is to be mapped, but {f'the {table} table' if table else 'the contract'} has no column {column}.",
            f"Map to one of {', '.join(known)}.",
        )


def _missing(key: str, name: str, table: str | None, column: str, tables: Mapping[str, Mapping[str, str]]) -> SeerecError:
    looked = [one for one in tables if column in COLUMNS[one] and table in (None, one)]
    found = "; ".join(f"{one}: {', '.join(tables[one].values())}" for one in looked)
    return SeerecError(f"{key} is to be the column {name}, which no table has (found in {found or 'no table'}).", _EXAMPLE)


def _choose(table: str, column: str, name: str, chosen: dict[str, str]) -> None:
    if chosen.get(column, name) != name:
        raise SeerecError(
            f"The column {column} of the {table} table is mapped twice: to {chosen[column]} and to {name}.",
            f"Map it once; {table}.{column}=NAME means this table alone.",
        )
    twice = [other for other, taken in chosen.items() if taken == name and other != column]
    if twice:
        raise SeerecError(f"{name} of the {table} table is mapped twice: as {twice[0]} and as {column}.", "Map it once.")
    chosen[column] = name


def _rename(connection: duckdb.DuckDBPyConnection, table: str, chosen: Mapping[str, str], columns: Mapping[str, str]) -> None:
    moved = {column: name for column, name in chosen.items() if column != name}
    hidden = [columns[column] for column in moved if column in columns and columns[column] not in moved.values()]
    changes = [f"RENAME {quoted(name)} TO {quoted('mapped ' + column)}" for column, name in moved.items()]
    changes += [f"DROP {quoted(name)}" for name in hidden]
    changes += [f"RENAME {quoted('mapped ' + column)} TO {quoted(column)}" for column in moved]
    for change in changes:
        connection.execute(f"ALTER TABLE raw_{table} {change}")
