"""What it means when PostgreSQL refuses to append: is it one of the events, the moment, or the database itself?"""

from typing import Final

import psycopg

from reflex.core.errors import DatabaseUnavailable, EventRejected

__all__ = ["blames_an_event", "describe_refusal", "explain"]

# Classes of SQLSTATE that blame a value: bad data, a constraint, a limit of the program, what a trigger of the
# operator raises.
FAULTS_OF_THE_EVENT: Final = {"22", "23", "44", "54", "P0"}
# A deadlock, a serialization failure: nothing is wrong with the events.
FAULTS_OF_THE_MOMENT: Final = {"40001", "40P01"}
UNDEFINED_TABLE: Final = {"42P01", "3F000"}


def blames_an_event(error: psycopg.Error) -> bool:
    """Whether the other events of the statement would go through without one of them, or at another moment."""
    state = error.sqlstate or ""
    # No SQLSTATE and no lost connection: psycopg itself could not send a value.
    return not state or state[:2] in FAULTS_OF_THE_EVENT or state in FAULTS_OF_THE_MOMENT


def explain(error: Exception) -> Exception:
    """What the one request is told without which the others go through."""
    if not isinstance(error, psycopg.Error):
        return error
    state = error.sqlstate or ""
    if state in FAULTS_OF_THE_MOMENT:
        return DatabaseUnavailable(f"the database was busy with a conflicting statement; nothing was stored ({state})")
    return EventRejected(f"the database refuses it: {primary(error)} ({state or 'driver'})")


def describe_refusal(error: psycopg.Error) -> str:
    """Why the database takes no events at all."""
    if error.sqlstate in UNDEFINED_TABLE:
        return "the database has no tables of Reflex yet; run `reflex migrate`"
    return f"the database refuses to append: {primary(error)} ({error.sqlstate})"


def primary(error: psycopg.Error) -> str:
    """The message that names the constraint or the limit. Values are in the details, which stay here."""
    return error.diag.message_primary or type(error).__name__
