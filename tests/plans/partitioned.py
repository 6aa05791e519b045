"""Plans of tables that are in partitions: what is read counts for the table, whichever of them it was in."""

import re
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

__all__ = ["leaves", "nodes", "split"]

PART = re.compile(r"(event|run)_(?:first|rest|[0-9]+)")


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan, each before those below it."""
    relation = plan.get("Relation Name")
    if relation and (part := PART.fullmatch(relation)):
        plan = {**plan, "Relation Name": part[1]}
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def leaves(table: str) -> list[str]:
    """The tables of a migrated and split database that hold the rows of a table."""
    return [f"{table}_rest", *(f"{table}_{number}" for number in range(8))] if table in ("event", "run") else [table]


def split(conn: psycopg.Connection, ids: int) -> None:
    """Eight partitions instead of the first, for events whose ids are the numbers up to `ids`."""
    for table in ("event", "run"):
        conn.execute(f"DROP TABLE reflex.{table}_first".encode())
        for number in range(8):
            low = sql.Literal(str(UUID(int=ids * number // 8 + 1)))
            high = sql.SQL("MAXVALUE") if number == 7 else sql.Literal(str(UUID(int=ids * (number + 1) // 8 + 1)))
            conn.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                    sql.Identifier("reflex", f"{table}_{number}"), sql.Identifier("reflex", table), low, high
                )
            )
