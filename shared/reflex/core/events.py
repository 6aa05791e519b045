"""Events: the classes that authors write, the record in the log, and the rules for type names and patterns."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar, cast, get_args
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

__all__ = [
    "SYSTEM_PREFIX",
    "BaseEvent",
    "Event",
    "EventRegistry",
    "NewEvent",
    "UntypedEvent",
    "candidate_patterns",
    "candidate_routes",
    "pattern_bounds",
    "pattern_matches",
]

# Types below this prefix are written by Reflex itself (a dead letter is one). Clients cannot publish them, and a
# trigger gets them only when its filter names them: "any event" must not mean "my own failures".
SYSTEM_PREFIX: Final = "reflex."
TYPE_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
TYPE_PATTERN: Final = re.compile(r"\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")
MAX_TYPE_LENGTH: Final = 200


class Event(NamedTuple):
    """One row of the log. `payload` is the decoded JSON object; `time` is the sender's, `created_at` the database's."""

    event_id: UUID
    type: str
    source: str
    key: str | None
    time: datetime
    payload: dict[str, Any]
    correlation_id: str | None
    causation_id: UUID | None
    depth: int
    trace_context: str | None


class NewEvent(NamedTuple):
    """An event to append. The order of the fields is the order of the arrays in `sql/append_events.sql`.

    `payload` is JSON text. `time` None means now; `available_at` or `delay` put the deliveries off.
    `trace_context` is a W3C traceparent.
    """

    event_id: UUID
    type: str
    source: str
    key: str | None
    time: datetime | None
    payload: str
    idempotency_key: str | None = None
    correlation_id: str | None = None
    causation_id: UUID | None = None
    depth: int = 0
    trace_context: str | None = None
    available_at: datetime | None = None
    delay: timedelta | None = None
    reply_to: str | None = None


class BaseEvent(BaseModel):
    """Base of the classes that authors register: the fields are the payload, `type` is the envelope's.

    `meta` is the record in the log that the object was read from; None on one that was not published yet, and on a
    copy.
    """

    # A slot, and not a private attribute: pydantic makes those anew for each event, as slowly as it checks the fields.
    __slots__ = ("_record",)
    model_config = ConfigDict(frozen=True)

    if TYPE_CHECKING:
        # A subclass narrows it to a Literal; a checker refuses that for a `str`, which it takes to be mutable.
        type: Any
    else:
        type: str

    @property
    def meta(self) -> Event | None:
        try:
            return read_slot(self)
        except AttributeError:
            return None

    def payload_json(self) -> str:
        """The payload as JSON text, without `type`."""
        return self.model_dump_json(exclude={"type"})

    @classmethod
    def from_record(cls, record: Event) -> "BaseEvent":
        """Read a record of the log as this class.

        Raises:
            pydantic.ValidationError: The payload is not what the class asks for.
        """
        event = cls.model_validate({**record.payload, "type": record.type})
        write_slot(event, record)
        return event


# By the attribute's name, pydantic would look at it first.
read_slot: Final[Any] = vars(BaseEvent)["_record"].__get__
write_slot: Final[Any] = vars(BaseEvent)["_record"].__set__


class UntypedEvent(BaseEvent):
    """An event of a type that no class was registered for."""

    type: str
    payload: dict[str, Any] = {}

    def payload_json(self) -> str:
        return orjson.dumps(self.payload).decode()

    @classmethod
    def from_record(cls, record: Event) -> "UntypedEvent":
        event = cls(type=record.type, payload=record.payload)
        write_slot(event, record)
        return event


EventClass = TypeVar("EventClass", bound=type[BaseEvent])


class EventRegistry:
    """The event classes of this process, by type."""

    classes: ClassVar[dict[str, type[BaseEvent]]] = {}

    @classmethod
    def register(cls, event_class: EventClass) -> EventClass:
        """Class decorator. The type is the default of the class's `type` field.

        Raises:
            TypeError: There is no default, it is no type name, or another class has it.
        """
        default: object = event_class.model_fields["type"].default
        if not isinstance(default, str):
            literals = get_args(event_class.model_fields["type"].annotation)
            hint = f' = "{literals[0]}"' if literals else ' = "order.created"'
            raise TypeError(f"{event_class.__name__}.type needs a default, as in `type: Literal[…]{hint}`")
        check_type_name(default)
        if default.startswith(SYSTEM_PREFIX):
            raise TypeError(f"{event_class.__name__}: types that start with {SYSTEM_PREFIX!r} are Reflex's own")
        known = cls.classes.get(default)
        if known and (known.__module__, known.__qualname__) != (
            event_class.__module__,
            event_class.__qualname__,
        ):
            raise TypeError(
                f"{event_class.__name__} and {known.__module__}.{known.__qualname__} both register the type {default!r}"
            )
        cls.classes[default] = event_class
        return event_class

    @classmethod
    def read(cls, record: Event) -> BaseEvent:
        """The record as its registered class, or as an `UntypedEvent`.

        Raises:
            pydantic.ValidationError: The registered class refuses the payload.
        """
        return cls.classes.get(record.type, UntypedEvent).from_record(record)

    @classmethod
    def payload_schema(cls, type: str) -> dict[str, Any]:
        """The JSON Schema of a type's payload, as it is stored in the database for the gateways."""
        schema = cls.classes[type].model_json_schema()
        cast("dict[str, Any]", schema.get("properties", {})).pop("type", None)
        if "required" in schema:
            schema["required"] = [name for name in schema["required"] if name != "type"]
        return schema


def check_type_name(type: str) -> str:
    """Raises TypeError with what a type looks like, if it is none."""
    if len(type) > MAX_TYPE_LENGTH or not TYPE_NAME.fullmatch(type):
        raise TypeError(
            f"{type!r} is not an event type: letters, digits, '_' and '-' in parts joined by '.', "
            f"at most {MAX_TYPE_LENGTH} characters"
        )
    return type


def check_type_pattern(pattern: str) -> str:
    """Raises TypeError if `pattern` is neither a type, nor `prefix.*`, nor `*`."""
    if len(pattern) > MAX_TYPE_LENGTH or not TYPE_PATTERN.fullmatch(pattern):
        raise TypeError(f"{pattern!r} is not a type pattern: write a type, a prefix such as 'order.*', or '*'")
    return pattern


@lru_cache(4096)
def candidate_patterns(type: str) -> tuple[str, ...]:
    """Every pattern that matches the type: itself, each prefix with `.*`, and `*` unless it is a system type."""
    parts = type.split(".")
    patterns = (type, *(".".join(parts[:length]) + ".*" for length in range(1, len(parts))))
    return patterns if type.startswith(SYSTEM_PREFIX) else (*patterns, "*")


def candidate_routes(types: Iterable[str]) -> dict[str, list[str]]:
    """What the statements that route ask for: each pattern that could match one of the types, beside that type."""
    routes = [(type, pattern) for type in set(types) for pattern in candidate_patterns(type)]
    return {"route_type": [type for type, _ in routes], "route_pattern": [pattern for _, pattern in routes]}


def pattern_matches(pattern: str, type: str) -> bool:
    """Whether an event of the type is one that the pattern means."""
    return pattern in candidate_patterns(type)


def pattern_bounds(pattern: str) -> tuple[str, str]:
    """The least and the greatest type, in byte order, that the pattern matches."""
    if pattern == "*":
        return "", "\U0010ffff"
    if pattern.endswith(".*"):
        return pattern[:-1], pattern[:-1] + "\U0010ffff"
    return pattern, pattern
