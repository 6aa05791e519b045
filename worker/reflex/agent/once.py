"""Calls of tools that must not be repeated.

    intent written ──call──► result, "try again" or "failed" ──► recorded
                      └────► an exception, a cancellation, a crash: not known
    not known ──probe──► done: recorded │ not done: called (again) │ not known: the delivery waits for a person

Needs pydantic-ai.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import ValidationError
from pydantic_ai.durable_exec import record_durable_unit
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed

from reflex.agent import ledger
from reflex.agent.budgeting import reserved_call
from reflex.agent.effects import Done, Effect, NotDone, Unknown
from reflex.agent.failures import headline, storable, without_secrets
from reflex.agent.journal import Journal, ToolCall, tool_call
from reflex.agent.ledger import Call, Entry
from reflex.agent.open_ends import leaves_open
from reflex.agent.step_limit import StepTooLarge, check_size
from reflex.agent.suspension import suspend, wait_of
from reflex.agent.tool_records import TOOL_RECORD, ToolRecord
from reflex.core.effects import EffectId
from reflex.core.journal import JournalUnavailable, LeaseLost
from reflex.core.waiting import LONGEST_WAIT, Wait, WaitKind

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext

    from reflex.agent.context import AgentContext

__all__ = ["OnceCall"]

Act = Callable[[], Awaitable[Any]]
# How long a run that is cancelled waits for a call that has begun: because a sibling failed, or time is up, a call that
# would be done in a moment must not become one that somebody has to look into.
FINISH_S: Final = 10.0
# With a probe, the delivery looks again by itself: at first soon, then as long after as it has waited already.
SOONEST_LOOK: Final = timedelta(minutes=1)
LATEST_LOOK: Final = timedelta(days=1)
UNKEPT: Final = "done; what was returned cannot be kept in the journal"
SHORTENED: Final = 300

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.agent")


class OnceCall:
    """One call, from its entry in the ledger to its end."""

    def __init__(
        self,
        ctx: "AgentContext",
        journal: Journal,
        effect: Effect,
        call: Call,
        run: "RunContext[Any]",
        run_usage: Any = None,
    ) -> None:
        """`run` and `run_usage` are those of the agent's run."""
        self.agent_run = run
        self.run_usage = run_usage
        self.ctx = ctx
        self.journal = journal
        self.effect = effect
        self.call = call
        self.too_large: StepTooLarge | None = None

    async def run(self, act: Act) -> Any:
        """Give what the call returned, now or in an earlier attempt.

        Raises:
            Suspended: It is not known whether an earlier call did its work.
            StepTooLarge: It was made, and is on record as that; what it returned is not.
            LeaseLost, JournalUnavailable: As for `Journal.look_up`. If it was made, its result is not known any more.
        """
        entry = await ledger.enter(self.journal, self.call)
        while True:
            if (record := ended(entry)) is not None:
                self.check()
                return record.replayed(self.ctx, self.journal, self.agent_run, self.run_usage)
            if not entry.intent:
                return await self.made(entry, act)
            entry = await self.looked_into(entry, "its run ended before it was known whether the call did its work")

    async def made(self, entry: Entry, act: Act) -> Any:
        # Before the intent: a call for which there is no room has not begun, and nobody must have to look into it.
        reservation = await reserved_call(self.ctx.spending)
        with tool_call(entry.key, repeatable=False) as call:
            call.reservation = reservation
            try:
                await ledger.begin(self.journal, entry)
                result = await finished(act)
            except (ModelRetry, ToolFailed) as error:
                record = self.record(ToolRecord.of_error(error), call)
                if not leaves_open(error):
                    await ledger.note_end(self.journal, entry, record, done=False)
                    self.check()
                    raise
                return await self.unclear(entry, error, call, record)
            except CallDeferred as error:
                # What is done elsewhere was begun.
                await self.done(entry, ToolRecord.of_error(error), call)
                raise
            except (NotDone, ApprovalRequired):
                await ledger.withdraw(self.journal, entry)
                raise
            except Finished as error:
                await self.done(entry, ToolRecord.of_result(error.result), call)
                raise asyncio.CancelledError(*error.args) from None
            except BaseException as error:
                looks = isinstance(error, Exception) or wait_of(error) is not None
                if looks and not isinstance(error, LeaseLost | JournalUnavailable):
                    return await self.unclear(entry, error, call)
                ledger.release(self.journal, entry)
                raise
        await self.done(entry, ToolRecord.of_result(result), call)
        self.check()
        return result

    async def unclear(self, entry: Entry, error: BaseException, call: ToolCall, record: str | None = None) -> Any:
        """The tool ended with an exception: perhaps after its work."""
        shown = without_secrets(headline(error))[:300]
        found = await self.looked_into(entry, f"the tool ended with {shown}", call)
        if (ended_as := ended(found)) is not None:
            self.check()
            return ended_as.outcome()
        if record is not None:
            await ledger.note_end(self.journal, found, record, done=False)
        else:
            await ledger.withdraw(self.journal, found)
        raise error

    async def looked_into(self, entry: Entry, why: str, call: ToolCall | None = None) -> Entry:
        """The entry with an end, or without an intent, or not at all: then the delivery waits."""
        match await self.probed(entry):
            case Done(result):
                return replace(entry, record=await self.done(entry, ToolRecord.of_result(result), call))
            case NotDone():
                return replace(entry, intent=False)
            case Unknown(reason):
                why = f"{why}; {storable(reason)}" if reason else why
        effect_id = EffectId(self.journal.delivery_id, entry.position)
        reason = (
            f"tool {entry.call.tool!r} may have done its work with idempotency key {entry.key}: {why}. Find out, and "
            f"say so: `reflex effects resolve {effect_id.delivery_id} {effect_id.step} --done JSON`, with what it "
            "would have returned, or `--not-done`, to have it called"
        )
        found = await ledger.park(self.journal, entry, why)
        if found.intent and ended(found) is None:
            log.warning("it is not known whether a tool has done its work", tool=entry.call.tool,
                        idempotency_key=entry.key, effect=str(effect_id), reason=why)  # fmt: skip
            suspend(Wait(WaitKind.EFFECT, reason, await self.at_most(found)))
        return found

    async def probed(self, entry: Entry) -> Done | NotDone | Unknown:
        if self.effect.probe is None:
            return Unknown()
        try:
            with tool_call(entry.key):
                answer: Any = await self.effect.probe(self.ctx, dict(entry.call.arguments), entry.key)
        except NotDone as error:
            return error
        except (LeaseLost, JournalUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 (an author's)
            return Unknown(f"the probe ended with {without_secrets(headline(error))[:300]}")
        if isinstance(answer, Done | NotDone | Unknown):
            return answer
        return Unknown(f"the probe returned {answer!r:.100}, which is neither Done(…), NotDone() nor Unknown()")

    async def at_most(self, entry: Entry) -> timedelta:
        if self.effect.probe is None or entry.since is None:
            return LONGEST_WAIT
        return min(max(await self.journal.now() - datetime.fromisoformat(entry.since), SOONEST_LOOK), LATEST_LOOK)

    async def done(self, entry: Entry, record: ToolRecord, call: ToolCall | None = None) -> str:
        text = self.record(record, call)
        try:
            await ledger.note_end(self.journal, entry, text, done=True)
        except BaseException:
            ledger.release(self.journal, entry)
            raise
        return text

    def record(self, record: ToolRecord, call: ToolCall | None) -> str:
        """The record as JSON text. What cannot be kept is done all the same."""
        if call is not None:
            record = record.with_call(call)
            record_durable_unit(executed=True)
        try:
            text = record.as_json()
        except ValueError:
            log.warning("the result of a tool that must not be repeated cannot be kept: a retry would tell the model "
                        "that it was done", tool=self.call.tool)  # fmt: skip
            return unkept(record)
        try:
            check_size(
                text, self.journal.max_step_bytes, what=f"the result of tool {self.call.tool!r}",
                then="its work is on record without it: a retry would tell the model only that it has ended",
            )  # fmt: skip
        except StepTooLarge as error:
            self.too_large = error
            return unkept(record)
        return text

    def check(self) -> None:
        """Raises StepTooLarge if the end that was just written could not be written whole."""
        if self.too_large is not None:
            with self.journal.broken_by(StepTooLarge):
                raise self.too_large


class Finished(BaseException):
    """The call came to its end although its run was cancelled meanwhile."""

    def __init__(self, result: Any, *args: Any) -> None:
        super().__init__(*args)
        self.result = result


def unkept(record: ToolRecord) -> str:
    """What is written of an end that cannot be kept: that it was one."""
    if record.ended == "deferred":
        shorter = replace(record, value=None)
    elif record.value is None:
        shorter = replace(record, message=f"{record.message[:SHORTENED]} ...")
    else:
        shorter = replace(ToolRecord.of_result(UNKEPT), published=record.published)
    return shorter.as_json()


def ended(entry: Entry) -> ToolRecord | None:
    if entry.verdict is not None:
        return ToolRecord.of_result(entry.verdict[0])
    if entry.record is None:
        return None
    try:
        return TOOL_RECORD.validate_json(entry.record)
    except ValidationError as error:  # written by another version of pydantic-ai, or of ours: it was done all the same
        log.warning("the result of a tool that must not be repeated cannot be read any more", error=str(error)[:300])
        return ToolRecord.of_result(UNKEPT)


async def finished(act: Act) -> Any:
    """What the call returns.

    Raises:
        Finished: The run was cancelled, and the call has come to its end since.
        Exception: The tool's.
    """
    task = asyncio.ensure_future(act())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        if task.cancelled():
            raise
        try:
            await asyncio.wait({task}, timeout=FINISH_S)
        finally:
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled() or task.exception() is not None:
            raise
        raise Finished(task.result(), *error.args) from None
