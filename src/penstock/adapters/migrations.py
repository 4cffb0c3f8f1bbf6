"""Migrations: numbered SQL files of one package, applied forward only, once, in order."""

import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from penstock.adapters.errors import MigrationChanged, MigrationOrder

FILE_PATTERN = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# "penstock" in a form that PostgreSQL takes as a lock number (signed 64 bit).
LOCK = int.from_bytes(b"penstock", "big") >> 1
APPLIED_TABLE = """
CREATE TABLE IF NOT EXISTS penstock_migrations (
    package text NOT NULL,
    number integer NOT NULL CHECK (number > 0),
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, number)
)
"""

# What a pool hands out; the class takes type arguments only when types are checked.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_schema(package: str) -> tuple[tuple[int, str], ...]:
    """The NNNN_name.sql files of an importable package (for example penstock.ledger.schema)."""
    found = []
    for entry in importlib.resources.files(package).iterdir():
        match = FILE_PATTERN.fullmatch(entry.name)
        if match is not None:
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


async def apply_migrations(
    connection: Connection, package: str, schema: Sequence[tuple[int, str]]
) -> tuple[int, ...]:
    """Bring `package` forward; returns the numbers applied now. Raises MigrationChanged and
    MigrationOrder.

    All in one transaction under one lock: several processes may start at once, and a migration
    that fails leaves the database as it was.
    """
    migrations = [Migration(number, sql) for number, sql in sorted(schema)]
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationOrder(package=package, expected=expected, found=migration.number)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(APPLIED_TABLE)
        rows = await connection.fetch(
            "SELECT number, sha256 FROM penstock_migrations WHERE package = $1 ORDER BY number",
            package,
        )
        fresh = _fresh(package, migrations, {row["number"]: row["sha256"] for row in rows})
        for migration in fresh:
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO penstock_migrations (package, number, sha256) VALUES ($1, $2, $3)",
                *(package, migration.number, migration.sha256),
            )
    return tuple(migration.number for migration in fresh)


def _fresh(package: str, migrations: list[Migration], applied: dict[int, str]) -> list[Migration]:
    """What is left to do, after checking that the past is still the past."""
    for migration in migrations[: len(applied)]:
        if applied.get(migration.number) != migration.sha256:
            raise MigrationChanged(package=package, number=migration.number)
    if len(applied) > len(migrations):
        raise MigrationOrder(package=package, expected=len(migrations), found=max(applied))
    return migrations[len(applied) :]
