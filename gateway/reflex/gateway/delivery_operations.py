"""Deliveries in the description of the gateway's interface: dead letters, approvals, effects, waits, what ends and what
makes them anew."""

from typing import Final

from reflex.core import effects, rows
from reflex.gateway import dead_letter_routes, delivery_routes, effect_routes, example_answers, replay_routes
from reflex.gateway.approval_operations import APPROVAL_OPERATIONS
from reflex.gateway.interface import CROSS_SITE, OPERATE, READ, READS, Answer, Body, Operation
from reflex.gateway.query import Parameter

__all__ = ["DELIVERY_OPERATIONS"]

DELIVERY_ID: Final = Parameter(
    "id", "text", "The delivery's id: `<trigger_id>-<event_id>`.", "3-0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"
)
EFFECT_ID: Final = Parameter(
    "id", "text", "The effect's id: `<delivery_id>.<step>`.", "3-0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b.2"
)
TRIGGER: Final = Parameter("name", "text", "The trigger's name.", "high-value-orders")
NO_LETTER: Final = {404: "It is no dead letter, or none any more."}

DELIVERY_OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="GET",
        path="/dead-letters",
        name="listDeadLetters",
        group="Dead letters",
        summary="Deliveries that will not be tried again by themselves, the latest first.",
        scopes=READ,
        narrowed=True,
        parameters=dead_letter_routes.LIST_PARAMETERS,
        answers=(Answer(200, "A page of dead letters.", dead_letter_routes.DeadLetterList),),
        problems=READS,
        curl='"{url}/dead-letters?trigger=high-value-orders&since=1d"',
    ),
    Operation(
        method="GET",
        path="/dead-letters/{id}",
        name="getDeadLetter",
        group="Dead letters",
        summary="One dead letter: its event, its error and every run.",
        scopes=READ,
        narrowed=True,
        place=DELIVERY_ID,
        answers=(Answer(200, "The dead letter.", rows.DeadLetterDetail),),
        problems={**NO_LETTER, **READS},
        curl="{url}/dead-letters/" + DELIVERY_ID.example,
    ),
    Operation(
        method="POST",
        path="/dead-letters/{id}/retry",
        name="retryDeadLetter",
        group="Dead letters",
        summary="Give one dead letter a new set of attempts.",
        scopes=OPERATE,
        narrowed=True,
        description="Of two who ask at once one gets 200 and the other 404.",
        place=DELIVERY_ID,
        answers=(Answer(200, "It is pending again.", dead_letter_routes.Retried),),
        problems={**NO_LETTER, **CROSS_SITE, **READS},
        curl="-X POST {url}/dead-letters/" + DELIVERY_ID.example + "/retry",
    ),
    Operation(
        method="POST",
        path="/dead-letters/retry",
        name="retryDeadLetters",
        group="Dead letters",
        summary="Retry all that a filter means.",
        scopes=OPERATE,
        narrowed=True,
        description="Those that are dead when the request arrives. What dies again meanwhile is left alone.",
        body=Body("At least one filter, or `all`.", dead_letter_routes.CHANGE_PARAMETERS),
        answers=(Answer(200, "How many.", dead_letter_routes.RetriedLetters, example_answers.RETRIED),),
        problems={
            **CROSS_SITE,
            **READS,
            413: "The body is too large.",
            415: "The content type is not taken.",
        },
        curl="""-X POST {url}/dead-letters/retry -H "Content-Type: application/json" \\
     -d '{{"trigger": "high-value-orders", "since": "1d"}}'""",
    ),
    Operation(
        method="DELETE",
        path="/dead-letters/{id}",
        name="purgeDeadLetter",
        group="Dead letters",
        summary="Give up on one dead letter for good.",
        scopes=OPERATE,
        narrowed=True,
        description="Its event stays and shows the delivery as cancelled.",
        place=DELIVERY_ID,
        answers=(Answer(200, "It is cancelled.", dead_letter_routes.Purged),),
        problems={**NO_LETTER, **CROSS_SITE, **READS},
        curl="-X DELETE {url}/dead-letters/" + DELIVERY_ID.example,
    ),
    Operation(
        method="DELETE",
        path="/dead-letters",
        name="purgeDeadLetters",
        group="Dead letters",
        summary="Purge all that a filter means.",
        scopes=OPERATE,
        narrowed=True,
        parameters=dead_letter_routes.CHANGE_PARAMETERS,
        answers=(Answer(200, "How many.", dead_letter_routes.PurgedLetters),),
        problems={**CROSS_SITE, **READS},
        curl='-X DELETE "{url}/dead-letters?trigger=high-value-orders&until=30d"',
    ),
    *APPROVAL_OPERATIONS,
    Operation(
        method="GET",
        path="/effects",
        name="listEffects",
        group="Effects",
        summary="Calls of tools that must not be repeated, of which no end is recorded.",
        scopes=READ,
        narrowed=True,
        description=(
            "`unknown`: their runs ended in between, so that nobody knows whether they did their work. Look for the "
            "`key` at whoever was called, and resolve them; what `waits` then goes on."
        ),
        parameters=effect_routes.LIST_PARAMETERS,
        answers=(Answer(200, "A page of effects.", effect_routes.EffectList, example_answers.EFFECTS),),
        problems=READS,
        curl='"{url}/effects?state=unknown"',
    ),
    Operation(
        method="POST",
        path="/effects/{id}/resolve",
        name="resolveEffect",
        group="Effects",
        summary="Say whether a call did its work. Its delivery goes on.",
        scopes=OPERATE,
        narrowed=True,
        description=(
            "If it did, `result` is what the tool would have returned, and the model is told that; if not, the tool is "
            "called, with the same idempotency key. Of two who ask at once one gets 200 and the other 404."
        ),
        place=EFFECT_ID,
        body=Body("The verdict.", {"application/json": effect_routes.VERDICT}),
        answers=(Answer(200, "Written down.", effects.Resolved, example_answers.RESOLVED),),
        problems={
            **CROSS_SITE,
            **READS,
            404: "There is no such effect, or somebody resolved it.",
            409: "An attempt at the delivery is under way; ask again when it stands still.",
            413: "The body is too large.",
            415: "The content type is not taken.",
        },
        curl="""-X POST {url}/effects/"""
        + EFFECT_ID.example
        + """/resolve -H "Content-Type: application/json" \\
     -d '{{"done": true, "result": "receipt 17"}}'""",
    ),
    Operation(
        method="GET",
        path="/waiting",
        name="listWaiting",
        group="Deliveries",
        summary="Deliveries that wait: for a time, an event or a person, and for how long at most.",
        scopes=READ,
        narrowed=True,
        parameters=delivery_routes.LIST_PARAMETERS,
        answers=(Answer(200, "Those that have waited longest first.", delivery_routes.WaitingList),),
        problems=READS,
        curl='"{url}/waiting?limit=20"',
    ),
    Operation(
        method="POST",
        path="/deliveries/{id}/cancel",
        name="cancelDelivery",
        group="Deliveries",
        summary="End a delivery, whatever it does.",
        scopes=OPERATE,
        narrowed=True,
        description=(
            "One that is pending, waits or is dead ends at once. One that runs is stopped by its worker; if it does "
            "not stop within the lease timeout, its lease is taken away, and nothing it does counts."
        ),
        place=DELIVERY_ID,
        parameters=delivery_routes.CANCEL_PARAMETERS,
        answers=(
            Answer(200, "It is cancelled.", delivery_routes.CancelledDelivery),
            Answer(202, "It runs, and ends soon.", delivery_routes.CancelledDelivery),
        ),
        problems={
            **CROSS_SITE,
            **READS,
            404: "There is no such delivery.",
            409: "It has ended, or is being cancelled already.",
        },
        curl='-X POST "{url}/deliveries/' + DELIVERY_ID.example + '/cancel?reason=by+mistake"',
    ),
    Operation(
        method="POST",
        path="/triggers/{name}/replay",
        name="replayTrigger",
        group="Deliveries",
        summary="Give a trigger events again that are in the log.",
        scopes=OPERATE,
        description=(
            "Each event that the trigger's patterns and the filter match gets a new delivery, in the order of the log; "
            "the agent does again what it does outside of Reflex. One request makes at most `limit` of them, and works "
            "for some five seconds. Unless it is `finished`, go on with `after` set to the answer's `cursor`, and with "
            "its `up_to`, as fast as you like. With `dry_run` nothing is made; the counts are of one request, too."
        ),
        place=TRIGGER,
        body=Body("Where to begin, `since` or `after`, and which events.", replay_routes.PARAMETERS),
        answers=(Answer(200, "What was done.", replay_routes.ReplayProgress, example_answers.REPLAYED),),
        problems={
            **CROSS_SITE,
            **READS,
            404: "There is no such trigger, or no running code has it any more.",
            410: "Events after `after` were dropped from the log.",
            413: "The body is too large.",
            415: "The content type is not taken.",
        },
        curl="""-X POST {url}/triggers/high-value-orders/replay -H "Content-Type: application/json" \\
     -d '{{"since": "2h", "type": "order.*", "dry_run": true}}'""",
    ),
)
