"""Tool calls that a person has to approve: the run asks, waits without a slot, and goes on with the decision.

pydantic-ai's public seam for it is the hook that is given the deferred calls inside the run, so an author's agent needs
no `DeferredToolRequests` among its output types. Imported by the first journaled run of an agent: it needs pydantic-ai.

A question is a step of the run's journal, which holds its id: a run that comes to it again finds the id, and under it
the decision. Where the journal was forgotten, or the conversation has become another one, it asks anew.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolApproved, ToolDenied
from pydantic_core import to_json

from reflex.agent.fingerprints import described, fingerprint_of_call
from reflex.agent.journal import Journal, Lookup
from reflex.agent.message_digests import MessageDigests
from reflex.agent.publishing import caused_event
from reflex.agent.suspension import suspend
from reflex.core import strict_json
from reflex.core.approval_answers import Answer, read_answers
from reflex.core.approval_event import APPROVAL_REQUESTED
from reflex.core.approval_waits import ApprovalRequest, call_digest, canonical_json
from reflex.core.approvals import Decision
from reflex.core.errors import EventRejected
from reflex.core.ids import new_id
from reflex.core.journal import StepKind
from reflex.core.json_text import without_nul
from reflex.core.waiting import Wait, WaitKind

if TYPE_CHECKING:
    from reflex.agent.context import AgentContext

__all__ = ["Approving"]

# A question that expires at this moment is looked at again at once, but not in a circle without a pause.
SHORTEST_WAIT: Final = timedelta(milliseconds=10)
SHOWN_CALLS: Final = 10
UNASKABLE: Final = (
    "This call was not made: somebody has to approve it, and its arguments cannot be shown. They are too large, nested "
    "too deeply, or hold numbers or characters that JSON does not have."
)


@dataclass(frozen=True, slots=True)
class Question:
    """A call, and the step by which the journal knows the question about it."""

    call: ToolCallPart
    arguments: dict[str, Any]
    digest: bytes
    metadata: Mapping[str, Any] | None
    step: Lookup

    @property
    def asked_as(self) -> UUID | None:
        """The approval's id, if an earlier attempt has asked."""
        return None if self.step.recorded is None else UUID(orjson.loads(self.step.recorded)["approval"])


class Approving:
    """Asks for each run of an agent, whatever the agent itself was made with. The hook is that of `Journaling`: each
    capability beside it would cost every step of every run."""

    def __init__(self, ctx: "AgentContext", journal: Journal) -> None:
        self.ctx = ctx
        self.journal = journal
        # The arguments with which calls were approved, as the model or whoever approved them said them, by their ids.
        self.approved: dict[str, dict[str, Any]] = {}

    async def decisions(self, ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults | None:
        """The decisions, if there is one for each call that has to be approved; else the run waits.

        Raises:
            Suspended: Somebody has to decide.
        """
        if not requests.approvals:
            return None
        results = DeferredToolResults()
        questions: list[Question] = []
        for call in requests.approvals:
            try:
                questions.append(await self._question(ctx, call, requests.metadata.get(call.tool_call_id)))
            except (ValueError, AssertionError, EventRejected):
                results.approvals[call.tool_call_id] = ToolDenied(UNASKABLE)
        asked = [approval_id for question in questions if (approval_id := question.asked_as) is not None]
        answers = await self.journal.ask(lambda conn: read_answers(conn, asked)) if asked else {}
        unasked: list[Question] = []
        pending: dict[UUID, tuple[Question, Answer]] = {}
        for question in questions:
            approval_id = question.asked_as
            answer = answers.get(approval_id) if approval_id is not None else None
            if approval_id is None or answer is None or answer.digest != question.digest:
                unasked.append(question)
            elif answer.decision is None:
                pending[approval_id] = question, answer
            else:
                results.approvals[question.call.tool_call_id] = decision = verdict(answer)
                if isinstance(decision, ToolApproved):
                    edited = decision.override_args
                    self.approved[question.call.tool_call_id] = question.arguments if edited is None else edited
                results.metadata[question.call.tool_call_id] = {
                    "approval_id": str(approval_id), "decided_by": answer.decided_by, "reason": answer.reason,
                }  # fmt: skip
        if unasked or pending:
            await self._wait(unasked, answers, pending)
        return results

    async def _question(self, ctx: RunContext[Any], call: ToolCallPart, metadata: Mapping[str, Any] | None) -> Question:
        """Raises ValueError, AssertionError or EventRejected if nobody could be shown what to approve."""
        arguments = call.args_as_dict(raise_if_invalid=True)
        shown = without_nul(canonical_json(arguments)).encode()
        limits = self.ctx.limits
        if len(shown) > limits.max_payload_bytes // 2:
            raise ValueError("too large")
        strict_json.parse(shown, max_nesting=limits.max_nesting - 2)
        digest = call_digest(call.tool_name, arguments, self.ctx.delivery_id)
        conversation = MessageDigests().of_calls(ctx.messages)
        of_call = fingerprint_of_call(conversation, call.tool_name, arguments, call.tool_call_id)
        tool = ctx.tool_manager.get_tool_def(call.tool_name) if ctx.tool_manager is not None else None
        # The tool's description belongs to what was approved: a changed default would change what an equal call does.
        told = to_json(described(tool)) if tool is not None else b""
        fingerprint = hashlib.sha256(b"approval" + of_call + told).digest()
        step = await self.journal.look_up(StepKind.WAIT, fingerprint)
        return Question(call, arguments, digest, metadata, step)

    async def _wait(
        self,
        unasked: Sequence[Question],
        answers: Mapping[UUID, Answer],
        pending: Mapping[UUID, tuple[Question, Answer]],
    ) -> None:
        asks: list[ApprovalRequest] = []
        left = [answer.expires_at - answer.now for _, answer in pending.values()]
        if unasked:
            now = await self.journal.now()
            asks = [await self._request(question, answers, now) for question in unasked]
            left.append(self.ctx.approvals.timeout)
        calls = [(question.call.tool_name, id) for id, (question, _) in pending.items()]
        calls += [(request.tool, request.approval_id) for request in asks]
        shown = ", ".join(f"{tool} ({approval_id})" for tool, approval_id in calls[:SHOWN_CALLS])
        more = f" and {len(calls) - SHOWN_CALLS} more" if len(calls) > SHOWN_CALLS else ""
        reason = f"somebody has to approve {shown}{more}"
        at_most = max(min(left), SHORTEST_WAIT)
        suspend(Wait(WaitKind.APPROVAL, reason, at_most, asks=tuple(asks), awaits=tuple(pending)))

    async def _request(self, question: Question, answers: Mapping[UUID, Answer], now: datetime) -> ApprovalRequest:
        """The question as it will be stored when the run is settled. Its id is journaled first: should the worker die
        in between, the next run asks under the same one."""
        approval_id = question.asked_as
        if approval_id is None or approval_id in answers:
            approval_id = new_id()
            await self.journal.record(question.step, orjson.dumps({"approval": str(approval_id)}).decode())
        call, ctx = question.call, self.ctx
        expires_at = now + ctx.approvals.timeout
        arguments = canonical_json(question.arguments)
        metadata = shown_metadata(question.metadata)
        payload = {
            "approval_id": str(approval_id),
            "delivery_id": str(ctx.delivery_id),
            "trigger": ctx.trigger,
            "tool": call.tool_name,
            "arguments": json.loads(without_nul(arguments)),
            "digest": question.digest.hex(),
            "metadata": None if metadata is None else json.loads(without_nul(metadata)),
            "edits_allowed": ctx.approvals.edits,
            "expires_at": expires_at.isoformat(),
        }
        assert ctx.event.meta is not None
        event = caused_event(
            APPROVAL_REQUESTED, payload, cause=ctx.event.meta, trigger=ctx.trigger, key=ctx.key, source=None,
            delay=None, trace_context=ctx.trace_context, limits=ctx.limits,
        )  # fmt: skip
        return ApprovalRequest(
            approval_id, call.tool_name, call.tool_call_id.replace("\0", ""), arguments, question.digest,
            metadata, ctx.approvals.edits, question.step.fingerprint,
            question.step.occurrence, now, expires_at, event,
        )  # fmt: skip


def shown_metadata(metadata: Mapping[str, Any] | None) -> str | None:
    """What the tool said with its question, as JSON text. What is no data is shown as Python shows it."""
    if not metadata:
        return None
    try:
        return to_json(metadata, inf_nan_mode="null", bytes_mode="base64", fallback=repr).decode()
    except ValueError:
        return None


def verdict(answer: Answer) -> ToolApproved | ToolDenied:
    """What pydantic-ai does with the call: make it, or tell the model that it was not made."""
    match answer.decision:
        case Decision.APPROVED:
            edited = answer.edited_arguments
            return ToolApproved(override_args=None if edited is None else json.loads(edited))
        case Decision.EXPIRED:
            return ToolDenied(
                f"The call was not made: nobody approved it within {answer.expires_at - answer.created_at}, the time "
                "there is for that."
            )
        case _:
            return ToolDenied(
                f"The call was denied: {answer.reason}"
                if answer.reason
                else "Somebody denied the call; it was not made."
            )
