"""What an app says about itself to the database: its event types with schemas, its triggers with their patterns,
its schedules.

Gateways validate and route by these rows; they never import the app.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection

from reflex.core.database import brief_transaction
from reflex.core.events import pattern_bounds
from reflex.core.lanes import WhenDead
from reflex.core.schedules import ScheduleDefinition, register_schedules
from reflex.core.statements import statement
from reflex.core.webhooks import WebhookDefinition, register_webhooks

__all__ = [
    "REGISTRY_CHANNEL",
    "EventType",
    "Manifest",
    "Registered",
    "TriggerDefinition",
    "payload_schemas",
    "register",
]

REGISTRY_CHANNEL = "reflex_registry"


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of event and the JSON Schema of its payload."""

    type: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TriggerDefinition:
    """A trigger as the database knows it. `definition` is for people to read; nothing decides by it.

    `key_path` makes the trigger ordered: `key`, `source`, or a path below the payload such as `payload.order.id`.
    """

    name: str
    patterns: tuple[str, ...]
    max_attempts: int
    definition: Mapping[str, Any]
    key_path: str | None = None
    when_dead: WhenDead = WhenDead.CONTINUE


@dataclass(frozen=True, slots=True)
class Manifest:
    """An app: its name (the module's path), event types, triggers, schedules and webhooks."""

    app: str
    event_types: tuple[EventType, ...]
    triggers: tuple[TriggerDefinition, ...]
    schedules: tuple[ScheduleDefinition, ...] = ()
    webhooks: tuple[WebhookDefinition, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """The ids that the database gave."""

    app_id: int
    trigger_ids: Mapping[str, int]
    schedule_ids: Mapping[str, int]


async def register(conn: AsyncConnection[Any], manifest: Manifest) -> Registered:
    """Add or update an app. Never removes a trigger or a schedule: while old and new code run side by side, both
    sets are wanted. One that no living worker knows any more is retired by maintenance.

    Registering again what is already there writes almost nothing and waits for nobody.
    """
    async with brief_transaction(conn):
        cursor = conn.cursor()
        await cursor.execute(
            statement("register_app"),
            {
                "app": manifest.app,
                "type": [event_type.type for event_type in manifest.event_types],
                "schema": [orjson.dumps(event_type.schema).decode() for event_type in manifest.event_types],
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        app_id: int = row[0]
        await cursor.execute(
            statement("register_triggers"),
            {
                "app_id": app_id,
                "name": [trigger.name for trigger in manifest.triggers],
                "max_attempts": [trigger.max_attempts for trigger in manifest.triggers],
                "definition": [orjson.dumps(trigger.definition).decode() for trigger in manifest.triggers],
                "key_path": [trigger.key_path for trigger in manifest.triggers],
                "when_dead": [trigger.when_dead for trigger in manifest.triggers],
            },
        )
        trigger_ids: dict[str, int] = dict(await cursor.fetchall())
        schedule_ids = await register_schedules(conn, app_id, manifest.schedules)
        await register_webhooks(conn, app_id, manifest.webhooks)
        routes = [
            (trigger_ids[trigger.name], pattern, *pattern_bounds(pattern), trigger.key_path)
            for trigger in manifest.triggers
            for pattern in trigger.patterns
        ]
        await cursor.execute(
            statement("replace_routes"),
            {
                "trigger_ids": list(trigger_ids.values()),
                "trigger_id": [route[0] for route in routes],
                "pattern": [route[1] for route in routes],
                "low": [route[2] for route in routes],
                "high": [route[3] for route in routes],
                "key_path": [route[4] for route in routes],
            },
        )
        going_on = [trigger_ids[t.name] for t in manifest.triggers if t.when_dead is WhenDead.CONTINUE]
        await cursor.execute(statement("lift_holds"), {"trigger_ids": going_on})
    return Registered(app_id, trigger_ids, schedule_ids)


async def payload_schemas(conn: AsyncConnection[Any]) -> dict[str, list[dict[str, Any]]]:
    """The schemas by type. Two apps may register one type; a payload is good if one of them accepts it."""
    cursor = await conn.execute("SELECT type, schema FROM reflex.event_type ORDER BY type, app_id")
    schemas: dict[str, list[dict[str, Any]]] = {}
    for type, schema in await cursor.fetchall():
        schemas.setdefault(type, []).append(schema)
    return schemas
