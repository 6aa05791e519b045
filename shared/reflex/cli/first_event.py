"""An event to try an app with: what `reflex dev` prints once the app has registered."""

import json
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import orjson
import psycopg

from reflex.core.database import connect
from reflex.core.statements import only_row, statement

__all__ = ["Input", "command_line", "database_clock", "first_event", "inputs_of"]

NAME: Final = "reflex dev"
HELLO: Final[dict[str, Any]] = {"type": "http", "payload": {"message": "Hello, Reflex!"}}

# A pattern of the app's triggers, a type that it matches, and the JSON Schema of that type's payload, if it has one.
Input = tuple[str, str | None, Mapping[str, Any] | None]


async def database_clock(url: str) -> datetime:
    async with await connect(url, name=NAME) as conn:
        return (await only_row(conn, "clock"))[0]


async def inputs_of(app: str, *, since: datetime, url: str) -> list[Input]:
    """What the triggers of an app wait for, in the order of their registration.

    Empty until the app has registered since that moment, or while the database does not answer.
    """
    try:
        async with await connect(url, name=NAME) as conn:
            rows = await (await conn.execute(statement("app_inputs"), {"app": app, "since": since})).fetchall()
    except psycopg.OperationalError:
        return []
    return [(pattern, type, schema and orjson.loads(schema)) for pattern, type, schema in rows]


def first_event(inputs: Iterable[Input]) -> dict[str, Any]:
    """An event that the first of these triggers would get; the friendly one where a trigger waits for `http`."""
    inputs = list(inputs)
    if any(pattern == HELLO["type"] for pattern, _, _ in inputs):
        return HELLO
    for pattern, type, schema in inputs:
        # What Reflex writes by itself cannot be sent.
        if type and schema is not None and not type.startswith("reflex."):
            if (payload := payload_for(schema)) is not None:
                return {"type": type, "payload": payload}
        elif not pattern.endswith("*") and not pattern.startswith("reflex."):
            return {"type": pattern, "payload": HELLO["payload"]}
    return HELLO


def payload_for(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Required fields, with values that look like some; those of `Field(examples=[…])` where a class has them."""
    from reflex.agent.samples import NoSample, sample

    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    required: list[str] = schema.get("required", [])
    known = {name: guess(name, properties.get(name, {})) for name in required}
    known |= {name: each["examples"][0] for name, each in properties.items() if each.get("examples")}
    try:
        return sample(schema, known)
    except NoSample:
        return None


def guess(name: str, schema: Mapping[str, Any]) -> Any:
    """What may stand in a field of that name; the sampler takes it only if it fits."""
    if schema.get("type") in ("number", "integer"):
        return 250
    return "A1" if name == "id" or name.endswith("_id") else name.replace("_", " ")


def command_line(url: str, event: Mapping[str, Any]) -> str:
    """For a shell; a quote inside the event is written so that the shell takes it."""
    body = shlex.quote(json.dumps(event, ensure_ascii=False))
    return f'curl -X POST {url}/events -H "Content-Type: application/json" -d {body}'
