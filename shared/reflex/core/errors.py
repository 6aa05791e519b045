"""What can go wrong, each with a stable `code` that logs, problem documents and the command line show.

ReflexError
├── EventRejected        the event breaks a rule of the envelope or the schema of its type; never retried
├── ConfigurationError   a setting is missing or wrong; the process does not start
│   └── AppError         the app's module does not load
├── NotFound             no such event, trigger or dead letter
├── Saturated            a bounded queue is full; try again later
└── DatabaseUnavailable  PostgreSQL cannot be reached or is shutting down

Kinds of EventRejected stand where they are raised: MalformedJson, QueryRejected, and those of the gateway's schemas.
What a run may do wrong (a filter that raises, an output or event that cannot be stored, a timeout) is beside what
raises it, in reflex.agent.
"""

from typing import ClassVar, Final

__all__ = [
    "CONFIGURATION_EXIT_CODE",
    "AppError",
    "ConfigurationError",
    "Conflict",
    "DatabaseUnavailable",
    "EventRejected",
    "NotFound",
    "ReflexError",
    "Saturated",
]


# Of a command that ends with a ConfigurationError. Starting it again would say the same: only a change can help.
CONFIGURATION_EXIT_CODE: Final = 2


class ReflexError(Exception):
    """Base of every error that Reflex raises on purpose."""

    code: ClassVar[str] = "reflex_error"


class EventRejected(ReflexError):
    """An event that is not taken. `field` is a JSON Pointer into the event, empty for the whole of it."""

    code = "event_rejected"

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"{field or 'event'}: {reason}")
        self.reason = reason
        self.field = field


class ConfigurationError(ReflexError):
    """A setting is missing or wrong."""

    code = "configuration"


class AppError(ConfigurationError):
    """The app's module cannot be loaded; the sentence says which line or variable to look at."""

    code = "app"


class NotFound(ReflexError):
    """There is no row for the id that was asked for."""

    code = "not_found"


class Conflict(ReflexError):
    """What was asked for is not possible in the state that the thing is in."""

    code = "conflict"


class Saturated(ReflexError):
    """A bounded queue is full. Nothing was stored."""

    code = "saturated"

    def __init__(self, what: str, *, retry_after_s: int = 1) -> None:
        super().__init__(f"{what} is full; nothing was stored, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DatabaseUnavailable(ReflexError):
    """PostgreSQL did not answer. Whether the last statement was committed is not known."""

    code = "database_unavailable"
