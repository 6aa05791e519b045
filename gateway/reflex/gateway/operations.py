"""What the gateway can be asked, in one table: /openapi.json and /docs are made of it, and tests compare it with the
routes of the app and with real answers."""

from typing import Final

from reflex.core import cloud_events, rows
from reflex.core.api_keys import KeyScope
from reflex.gateway import example_answers, health, reading
from reflex.gateway.delivery_operations import DELIVERY_OPERATIONS
from reflex.gateway.ingest import WAIT
from reflex.gateway.interface import BAD_QUERY, READ, READS, Answer, Body, Operation
from reflex.gateway.live import event_source, waiting, websocket
from reflex.gateway.publishing_schema import BATCH_ANSWER, CLOUD_EVENT, EVENT, EVENT_ANSWER
from reflex.gateway.query import Parameter
from reflex.gateway.webhook_operations import WEBHOOK_OPERATIONS

__all__ = ["OPERATIONS"]

EVENT_ID: Final = Parameter("id", "text", "The event's id.", "0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b")
NO_EVENT: Final = {404: "There is no such event."}
JSON: Final = "application/json"
OPEN: Final = ()
PUBLISH: Final = (KeyScope.PUBLISH,)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="POST",
        path="/events",
        name="publishEvents",
        group="Publish",
        summary="Append an event, or a batch of them.",
        scopes=PUBLISH,
        narrowed=True,
        description=(
            "One JSON object, a JSON array of them, or one object a line (`application/x-ndjson`). The answer comes "
            "after the commit that holds the events and their deliveries. A batch is stored as a whole or not at all. "
            "An `id` that was used before with the same source (or an `Idempotency-Key`) stores nothing and answers "
            "with the first id. CloudEvents 1.0 are taken, too: structured, batched, and in the binary mode, with "
            "their attributes in `ce-` headers and any content type."
        ),
        parameters=(WAIT,),
        headers=(
            Parameter("Idempotency-Key", "text", "The same as the event's `id`; for single events.", "order-A1"),
            Parameter("traceparent", "text", "W3C trace context, handed on to the runs.", "00-4bf92f35…-01"),
        ),
        body=Body(
            "The event's own data goes into `payload`; everything beside it is the envelope.",
            {
                JSON: {"oneOf": [EVENT, {"type": "array", "items": EVENT, "minItems": 1}]},
                "application/x-ndjson": {"type": "string", "description": "One event a line."},
                cloud_events.CONTENT_TYPE: CLOUD_EVENT,
                cloud_events.BATCH_TYPE: {"type": "array", "items": CLOUD_EVENT},
            },
        ),
        answers=(
            Answer(
                200,
                "With `wait`: stored, and every delivery is settled.",
                waiting.Settled,
                example_answers.SETTLED,
            ),
            Answer(
                202,
                "Stored. One event: its `id`. A batch: `ids`, in order.",
                {"oneOf": [EVENT_ANSWER, BATCH_ANSWER]},
                example_answers.ACCEPTED,
            ),
        ),
        problems={
            400: "The body is not valid JSON, or `wait` makes no sense.",
            408: "The body did not arrive in time.",
            413: "The body, or the batch, is too large; or the batch is larger than the key's quota of a day.",
            415: "The content type is not taken.",
            429: "The key has published as much as it may; `Retry-After` says when it may again. Nothing was stored.",
            422: "An event breaks a rule of the envelope or the schema of its type; `errors` name the fields.",
            503: "The database does not answer, or the gateway is full; nothing was stored, or it is not known.",
        },
        curl="""-X POST {url}/events -H "Content-Type: application/json" \\
     -d '{{"type": "http", "payload": {{"message": "Hello, Reflex!"}}}}'""",
    ),
    *WEBHOOK_OPERATIONS,
    Operation(
        method="GET",
        path="/ws",
        name="webSocket",
        group="Publish",
        summary="A WebSocket: publish and get replies, follow the log, or type lines by hand.",
        scopes=websocket.NEEDED,
        narrowed=True,
        description="Its frames are described by `/asyncapi.json`. A page of another site is refused with 403.",
        answers=(),
        problems={426: "The request does not ask for a WebSocket."},
        curl="{url}/ws",
    ),
    Operation(
        method="GET",
        path="/events",
        name="listEvents",
        group="Read",
        summary="The log, newest first.",
        scopes=READ,
        narrowed=True,
        description=(
            "Filters combine. `since` and `until` go by when the gateway took the event, which is the order of the "
            "log, not by the sender's `time`."
        ),
        parameters=reading.EVENT_PARAMETERS,
        answers=(Answer(200, "A page of events.", reading.EventList),),
        problems=READS,
        curl='"{url}/events?type=order.*&since=2h&limit=20"',
    ),
    Operation(
        method="GET",
        path="/events/stream",
        name="streamEvents",
        group="Read",
        summary="The log as it grows, as server-sent events.",
        scopes=READ,
        narrowed=True,
        description=(
            "For a browser's `EventSource`, and for anything that reads lines. Each event's `id` is its cursor: who "
            "connects again with `Last-Event-ID`, as a browser does by itself, or with `after`, misses nothing and "
            "gets nothing twice. Without either it begins now. Filters combine; without any, Reflex's own events are "
            "in it, too. A stream that the gateway ends says why in an event named `closing`."
        ),
        parameters=event_source.PARAMETERS,
        headers=(Parameter("Last-Event-ID", "text", "As `after`.", "AQAAAAAAAAAqAAE"),),
        answers=(Answer(200, "The stream: `id` and `data`, an event as JSON.", "event-stream"),),
        problems={
            **READS,
            400: "An unknown parameter, a value that makes no sense, or no cursor of this log.",
            410: "Events after this cursor were dropped from the log; begin anew.",
        },
        curl='-N "{url}/events/stream?type=order.*"',
    ),
    Operation(
        method="GET",
        path="/events/{id}",
        name="getEvent",
        group="Read",
        summary="One event: its deliveries, every run, and the events these published.",
        scopes=READ,
        narrowed=True,
        place=EVENT_ID,
        description="With `Accept: application/cloudevents+json` it is answered as a CloudEvent, alone.",
        answers=(
            Answer(
                200,
                "The event.",
                rows.EventDetail,
                example_answers.EVENT,
                others={cloud_events.CONTENT_TYPE: CLOUD_EVENT},
            ),
        ),
        problems={**NO_EVENT, **READS},
        curl="{url}/events/" + EVENT_ID.example,
    ),
    Operation(
        method="GET",
        path="/event-types",
        name="listEventTypes",
        group="Read",
        summary="The types that apps registered, with their JSON Schemas, and types whose events no trigger matched.",
        scopes=READ,
        narrowed=True,
        answers=(Answer(200, "The types.", reading.EventTypeList),),
        problems=READS,
        curl="{url}/event-types",
    ),
    Operation(
        method="GET",
        path="/triggers",
        name="listTriggers",
        group="Read",
        summary="The triggers: what they match, their backlog, and how many live workers serve them.",
        scopes=READ,
        answers=(Answer(200, "The triggers.", reading.TriggerList),),
        problems=READS,
        curl="{url}/triggers",
    ),
    Operation(
        method="GET",
        path="/schedules",
        name="listSchedules",
        group="Read",
        summary="The schedules: when each fires next, its last event, and how often it fired and was skipped.",
        scopes=READ,
        answers=(Answer(200, "The schedules.", reading.ScheduleList),),
        problems=READS,
        curl="{url}/schedules",
    ),
    *DELIVERY_OPERATIONS,
    Operation(
        method="GET",
        path="/health",
        name="health",
        group="Operate",
        summary="Is the process alive? The database is not asked.",
        scopes=OPEN,
        answers=(Answer(200, "It is.", health.Alive),),
        curl="{url}/health",
    ),
    Operation(
        method="GET",
        path="/health/ready",
        name="ready",
        group="Operate",
        summary="Could an event be stored now? For whoever decides whether requests go to this gateway.",
        scopes=OPEN,
        description="Answers within about two seconds, whatever the database does.",
        answers=(
            Answer(200, "It could.", health.Readiness),
            Answer(503, "The database does not answer, or was never migrated.", health.Readiness),
        ),
        curl="{url}/health/ready",
    ),
    Operation(
        method="GET",
        path="/health/detailed",
        name="detailedHealth",
        group="Operate",
        summary="Is the system well? The database's latency, the queue, the workers, and what is wrong.",
        scopes=READ,
        description="Answers within about two seconds, whatever the database does.",
        answers=(
            Answer(200, "`ok`, or `degraded` with the `problems`.", health.Health, example_answers.HEALTH),
            Answer(503, "`down`: no event can be stored.", health.Health),
        ),
        problems=BAD_QUERY,
        curl="{url}/health/detailed",
    ),
    Operation(
        method="GET",
        path="/metrics",
        name="metrics",
        group="Operate",
        summary="What this gateway counted, and the numbers of the whole system, for Prometheus.",
        scopes=READ,
        description=(
            "The classic text; OpenMetrics, with exemplars that lead to traces, if `Accept` names "
            "`application/openmetrics-text`, as Prometheus does. What is known of the database is the same at every "
            "gateway and a few seconds old; while the database does not answer, `reflex_database_up` is 0 and the rest "
            "of it is missing."
        ),
        answers=(Answer(200, "The numbers.", "metrics"),),
        problems=BAD_QUERY,
        curl="{url}/metrics",
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        name="openapi",
        group="Operate",
        summary="This interface as an OpenAPI 3.1 document.",
        scopes=OPEN,
        answers=(Answer(200, "The document.", "openapi"),),
        curl="{url}/openapi.json",
    ),
    Operation(
        method="GET",
        path="/asyncapi.json",
        name="asyncapi",
        group="Operate",
        summary="The frames of the WebSocket as an AsyncAPI 3.0 document.",
        scopes=OPEN,
        answers=(Answer(200, "The document.", "openapi"),),
        curl="{url}/asyncapi.json",
    ),
    Operation(
        method="GET",
        path="/docs",
        name="docs",
        group="Operate",
        summary="This interface as a page to read.",
        scopes=OPEN,
        answers=(Answer(200, "The page.", "html"),),
        curl="{url}/docs",
    ),
)
