"""Approvals in the description of the gateway's interface."""

from typing import Any, Final

from reflex.core.approvals import ApprovalRow
from reflex.gateway.approval_routes import DECISION, LIST_PARAMETERS, ApprovalList
from reflex.gateway.interface import CROSS_SITE, OPERATE, READ, READS, Answer, Body, Operation
from reflex.gateway.query import Parameter

__all__ = ["APPROVAL_OPERATIONS"]

APPROVAL_ID: Final = Parameter("id", "text", "The approval's id.", "0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b")
DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
NO_APPROVAL: Final = {404: "There is no such approval."}
EXAMPLE: Final[dict[str, Any]] = {
    "id": APPROVAL_ID.example,
    "delivery_id": "3-0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1c",
    "event_id": "0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1c",
    "trigger": "refunds",
    "app": "shop.triggers",
    "tool": "refund",
    "tool_call_id": "call_b7",
    "arguments": {"order": "A1", "cents": 4200},
    "digest": DIGEST,
    "metadata": None,
    "edits_allowed": False,
    "state": "approved",
    "created_at": "2026-01-31T09:00:00Z",
    "expires_at": "2026-02-07T09:00:00Z",
    "decided_at": "2026-01-31T09:12:30Z",
    "decided_by": "ann",
    "edited_arguments": None,
    "reason": None,
}

APPROVAL_OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="GET",
        path="/approvals",
        name="listApprovals",
        group="Approvals",
        summary="Tool calls that somebody has to approve, or had to, the newest first.",
        scopes=READ,
        narrowed=True,
        parameters=LIST_PARAMETERS,
        answers=(Answer(200, "A page of approvals.", ApprovalList),),
        problems=READS,
        curl='"{url}/approvals?state=pending"',
    ),
    Operation(
        method="GET",
        path="/approvals/{id}",
        name="getApproval",
        group="Approvals",
        summary="One approval: the tool, its arguments, and what was decided.",
        scopes=READ,
        narrowed=True,
        place=APPROVAL_ID,
        answers=(Answer(200, "The approval.", ApprovalRow, EXAMPLE),),
        problems={**NO_APPROVAL, **READS},
        curl="{url}/approvals/" + APPROVAL_ID.example,
    ),
    Operation(
        method="POST",
        path="/approvals/{id}",
        name="decideApproval",
        group="Approvals",
        summary="Approve or deny a tool call; its run goes on.",
        scopes=OPERATE,
        narrowed=True,
        description=(
            "The decision is bound to the tool and the arguments that were looked at: `digest` is that of the approval "
            "as it was shown. Of several people who decide at once the first one counts, and the others are told what "
            "was decided."
        ),
        place=APPROVAL_ID,
        body=Body("The decision.", {"application/json": DECISION}),
        answers=(Answer(200, "The approval, decided.", ApprovalRow, EXAMPLE),),
        problems={
            **NO_APPROVAL,
            **READS,
            400: "The body is no JSON, or there is a query parameter.",
            **CROSS_SITE,
            409: "It was decided before (`already_decided`: `approval` has the first decision), or the digest is not "
            "that of the approval (`digest_differs`). Nothing was changed.",
            410: "It has expired, or its run does not wait for it any more.",
            413: "The body is too large.",
            415: "The content type is not taken.",
            422: "A field is missing, unknown or wrong, or `arguments` are given where the trigger allows no edits; "
            "`errors` name it.",
        },
        curl="""-X POST {url}/approvals/"""
        + APPROVAL_ID.example
        + """ -H "Content-Type: application/json" \\
     -d '{{"decision": "approve", "digest": \""""
        + DIGEST
        + """\", "by": "ann"}}'""",
    ),
)
