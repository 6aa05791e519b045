"""Logs: structlog, one JSON object a line for machines, coloured lines on a terminal. Both processes start here."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, Literal, TextIO, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

__all__ = ["configure_logs", "run_fields"]


# What the current run is, as log fields. A function, called only when a line is really written: at twenty thousand
# runs a second, formatting ids that nobody reads would cost more than the runs.
run_fields: ContextVar[Callable[[], dict[str, Any]] | None] = ContextVar("run_fields", default=None)


# Methods that are not named after their level.
LEVELS: Final = {"exception": "error", "warn": "warning"}


def add_origin(_: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """When, and how serious; of which event, delivery and run, while one is going on; of which trace, if there is one.

    One processor for all of that, since each run writes a line: structlog's own are as long as the rest of a run.
    """
    if (fields := run_fields.get()) is not None:
        entry = {**fields(), **entry}
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        entry.setdefault("trace_id", f"{context.trace_id:032x}")
        entry["span_id"] = f"{context.span_id:016x}"
    entry["level"] = LEVELS.get(method, method)
    entry["timestamp"] = utc_now()
    return entry


def utc_now() -> str:
    """ISO 8601, with microseconds."""
    second, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{utc_second(second)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=1)
def utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def to_json(entry: EventDict, **_: Any) -> str:
    return orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class Unfailing:
    """A stream that drops what cannot be written. Whoever read our log may be gone, or its disk full: that must not
    stop events from being stored, nor the process from ending."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        # One `suppress` and not two: each run writes a line.
        with suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Done already."""


def configure_logs(
    *,
    service: str,
    format: Literal["auto", "json", "pretty"] = "auto",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Set up structlog, and send the standard library's logs (hypercorn, psycopg, alembic) the same way.

    Args:
        format: `auto` is `pretty` on a terminal and `json` elsewhere.
        stream: Standard error by default, so that a command's output stays clean.
    """
    stream = stream if stream is not None else cast("TextIO", sys.stderr)
    pretty = format == "pretty" or (format == "auto" and stream.isatty())
    shared: list[Any] = [structlog.contextvars.merge_contextvars, add_origin]
    # Tracebacks without the values of variables, which structlog shows by itself: some of them are secrets.
    if pretty:
        last: list[Any] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                pad_event_to=32,
                exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False),
            ),
        ]
    else:
        tracebacks = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        last = [tracebacks, structlog.processors.JSONRenderer(serializer=to_json)]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", Unfailing(stream))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    route = logging.StreamHandler(Unfailing(stream))
    route.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [route]
    # Libraries speak up from warning on: httpx2 logs every request at info, address and all.
    root.setLevel(max(threshold, logging.WARNING))
