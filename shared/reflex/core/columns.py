"""What the tables of the schema are made of, for SQLAlchemy: their metadata, and the kinds of their columns."""

from typing import Any

import sqlalchemy as sa

__all__ = ["AT", "NOW", "TYPE", "ZERO", "identity", "key", "metadata", "needed", "optional"]

metadata = sa.MetaData(
    schema="reflex",
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    },
)

AT = sa.DateTime(timezone=True)
TYPE = sa.Text(collation="C")
NOW = sa.text("now()")
ZERO = sa.text("0")


def key(name: str, type_: Any, *constraints: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, *constraints, primary_key=True, autoincrement=False)


def needed(name: str, type_: Any, *constraints: Any, default: Any = None) -> sa.Column[Any]:
    return sa.Column(name, type_, *constraints, nullable=False, server_default=default)


def optional(name: str, type_: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True)


def identity(name: str, type_: Any = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, type_, sa.Identity(always=True), primary_key=True)
