"""Approvals over HTTP: list, show, decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reflex.core.approvals import (
    AlreadyDecided,
    ApprovalRow,
    DecisionRejected,
    decide_approval,
    get_approval,
    list_approvals,
)
from reflex.core.rows import to_json
from reflex.gateway.access import grant_of
from reflex.gateway.answers import json_answer
from reflex.gateway.connections import change, read
from reflex.gateway.narrowing import within_of
from reflex.gateway.operating import id_of, read_json, refuse_cross_site
from reflex.gateway.problems import MEDIA_TYPE, describe_error
from reflex.gateway.query import CURSOR, LIMIT, Parameter, read_query

__all__ = ["DECISION", "LIST_PARAMETERS", "ApprovalList", "routes"]

LIST_PARAMETERS: Final = (
    Parameter("state", "text", "`pending`: somebody can decide it now. `decided`: all that is over.", "pending"),
    Parameter("trigger", "text", "The trigger's name.", "refunds"),
    CURSOR,
    LIMIT,
)
DECISION: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["decision", "digest"],
    "properties": {
        "decision": {"enum": ["approve", "deny"]},
        "digest": {"type": "string", "description": "`digest` of the approval as it was looked at."},
        "arguments": {
            "type": ["object", "null"],
            "description": "Make the call with these instead. Only with `edits_allowed`.",
        },
        "reason": {
            "type": ["string", "null"],
            "maxLength": 2000,
            "description": "Of a denied call, the model reads it.",
        },
        "by": {"type": ["string", "null"], "maxLength": 200, "description": "Who decides; kept as it is."},
    },
}
DECISIONS: Final = {"approve": True, "deny": False}

log: structlog.stdlib.BoundLogger = structlog.get_logger("reflex.gateway.approvals")


@dataclass(frozen=True, slots=True)
class ApprovalList:
    """A page of approvals, the newest first. `next_cursor` continues it; null on the last page."""

    approvals: list[ApprovalRow]
    next_cursor: str | None


class Given(NamedTuple):
    """A decision as it was sent."""

    approve: bool
    digest: str
    arguments: Mapping[str, Any] | None
    reason: str | None
    by: str | None


async def approvals(request: Request) -> Response:
    values = read_query(request, LIST_PARAMETERS)
    within = within_of(request)
    page = await read(request, lambda conn: list_approvals(conn, **values, within=within))
    return json_answer(ApprovalList(page.rows, page.next_cursor))


async def approval(request: Request) -> Response:
    read_query(request, ())
    approval_id = approval_id_of(request)
    within = within_of(request)
    return json_answer(await read(request, lambda conn: get_approval(conn, approval_id, within=within)))


async def decide(request: Request) -> Response:
    refuse_cross_site(request)
    read_query(request, ())
    approval_id = approval_id_of(request)
    given = decision_of(await read_json(request, DecisionRejected))
    found = grant_of(request.scope).key
    key = found.id if found else None
    by = f"{given.by} (key {key})" if given.by and key else f"key {key}" if key else given.by
    given, within = given._replace(by=by), within_of(request)
    try:
        row = await change(request, lambda conn: decide_approval(conn, approval_id, **given._asdict(), within=within))
    except AlreadyDecided as error:
        document = {**describe_error(error), "approval": error.approval}
        return Response(to_json(document), HTTPStatus.CONFLICT, {"cache-control": "no-store"}, MEDIA_TYPE)
    # Not the arguments, nor the reason: they may hold what belongs to nobody's log.
    log.info("approval decided", approval_id=str(row.id), delivery_id=row.delivery_id, tool=row.tool,
             decision=row.state, by=row.decided_by, edited=row.edited_arguments is not None)  # fmt: skip
    return json_answer(row)


def decision_of(body: object) -> Given:
    """The decision in a body.

    Raises:
        DecisionRejected: With the field that is wrong.
    """
    if not isinstance(body, dict):
        raise DecisionRejected('must be a JSON object, such as {"decision": "approve", "digest": "…"}', field="body")
    values = cast("dict[str, object]", body)
    known = DECISION["properties"]
    if unknown := next((name for name in values if name not in known), None):
        raise DecisionRejected(f"is not known; known are {', '.join(known)}", field=f"/{unknown[:80]}")
    decision, digest, arguments = values.get("decision"), values.get("digest"), values.get("arguments")
    if not isinstance(decision, str) or decision not in DECISIONS:
        raise DecisionRejected("must be approve or deny", field="/decision")
    if not isinstance(digest, str) or not digest:
        raise DecisionRejected("must be the digest of the approval as it was looked at", field="/digest")
    if arguments is not None and not isinstance(arguments, dict):
        raise DecisionRejected("must be a JSON object", field="/arguments")
    for name in ("reason", "by"):
        if values.get(name) is not None and not isinstance(values[name], str):
            raise DecisionRejected("must be a string", field=f"/{name}")
    return Given(
        DECISIONS[decision],
        digest,
        cast("dict[str, Any] | None", arguments),
        cast("str | None", values.get("reason")),
        cast("str | None", values.get("by")),
    )


def approval_id_of(request: Request) -> UUID:
    return id_of(
        request, UUID, what="approval", example="0198a1b2-0000-7000-8000-000000000000",
        shown="GET /approvals lists them",
    )  # fmt: skip


routes: list[Route] = [
    Route("/approvals", approvals, methods=["GET"]),
    Route("/approvals/{id}", approval, methods=["GET"]),
    Route("/approvals/{id}", decide, methods=["POST"]),
]
