"""Calls of tools whose writes commit with the record of the call, in one transaction fenced by the lease.

Needs pydantic-ai.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from pydantic_ai.durable_exec import record_durable_unit

from reflex.agent.effects import EffectMisuse
from reflex.agent.journal import Journal, Lookup, tool_call, tool_calls
from reflex.agent.step_limit import StepTooLarge, check_size
from reflex.agent.tool_records import ToolRecord
from reflex.core.journal import JournalUnavailable, LeaseLost, Step, journal_step

__all__ = ["in_transaction"]


async def in_transaction(journal: Journal, step: Lookup, name: str, key: str, act: Callable[[], Awaitable[Any]]) -> Any:
    """Make the call with a connection as `ctx.connection`, and commit what it wrote with its record.

    Raises:
        EffectMisuse: It runs inside of another one; or its result cannot be kept, so nothing was written.
        StepTooLarge: So is its result; nothing was written.
        LeaseLost: Another worker has the delivery; nothing was written.
        JournalUnavailable: No connection, or it broke while committing: the next attempt will know.
    """
    if any(call.connection is not None for call in tool_calls.get()):
        raise EffectMisuse(f"tool {name!r} is transactional and runs inside of another such tool: each would wait for "
                           "the connection of the other")  # fmt: skip
    committing = False
    with journal.broken_by(LeaseLost, JournalUnavailable, StepTooLarge):
        try:
            async with journal.store.transaction() as conn:
                with tool_call(key, conn, repeatable=False) as call:
                    result = await act()
                if conn.info.transaction_status is not TransactionStatus.INTRANS:
                    raise EffectMisuse(f"tool {name!r} is transactional and returned although a statement of its "
                                       "transaction had failed: let the error pass, or use conn.transaction() around "
                                       "what may fail")  # fmt: skip
                record = ToolRecord.of_result(result).with_call(call)
                text = kept(name, record, journal.max_step_bytes)
                position = journal.next_position()
                committing = True
                await journal_step(
                    conn, journal.delivery_id, journal.lease_epoch,
                    Step(step.kind, step.fingerprint, step.occurrence, position, text),
                )  # fmt: skip
        except psycopg.OperationalError as error:
            if not committing:
                raise
            raise JournalUnavailable(
                f"the connection broke while the writes of tool {name!r} were committed: {str(error).strip()}"
            ) from error
    record_durable_unit(executed=True)
    return result


def kept(name: str, record: ToolRecord, limit: int) -> str:
    try:
        text = record.as_json()
    except ValueError as error:
        raise EffectMisuse(
            f"tool {name!r} is transactional and returned what cannot be written as JSON, so nothing was committed: "
            f"{str(error).splitlines()[0][:300]}"
        ) from error
    check_size(text, limit, what=f"the result of tool {name!r}", then="nothing of what it did was committed")
    return text
