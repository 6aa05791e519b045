"""What webhooks are asked, for the description of the gateway's interface."""

from typing import Final

from reflex.gateway.interface import Answer, Body, Operation
from reflex.gateway.publishing_schema import EVENT_ANSWER
from reflex.gateway.query import Parameter

__all__ = ["WEBHOOK_OPERATIONS"]

ACCEPTED: Final = {
    "anyOf": [
        EVENT_ANSWER,
        {"type": "object", "required": ["challenge"], "properties": {"challenge": {"type": "string"}}},
    ]
}

WEBHOOK_OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="POST",
        path="/webhooks/{name}",
        name="receiveWebhook",
        group="Publish",
        summary="What another system sends and has signed, as an event.",
        scopes=(),
        description=(
            "For a webhook that an app has declared: of the Standard Webhooks, GitHub, Slack, Stripe, or signed with "
            "an HMAC. Its signature is its key. The sender's id of the delivery is the event's: sent again, nothing is "
            "stored twice."
        ),
        place=Parameter("name", "text", "The webhook's name.", "github"),
        body=Body(
            "Whatever the sender sends. A JSON object is the payload as it is.",
            {"*/*": {"description": "The body that was signed."}},
        ),
        answers=(
            Answer(200, "Slack has asked whether the address is ours.", ACCEPTED),
            Answer(202, "Stored.", EVENT_ANSWER),
        ),
        problems={
            401: "The signature is missing or wrong, or too far from now.",
            404: "There is no such webhook.",
            408: "The body did not arrive in time.",
            413: "The body is too large.",
            503: "The secret is not set up, the database does not answer, or the gateway is full; send it again.",
        },
        curl="-X POST {url}/webhooks/github -d '{{}}'",
    ),
)
