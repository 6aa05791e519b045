"""Logs: structlog, one JSON object a line for machines, coloured lines on a terminal. Both processes start here."""

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
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
    entry.setdefault("timestamp", datetime.now(UTC))
    return entry


def show_local_time(_: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    if isinstance(moment := entry["timestamp"], datetime):
        entry["timestamp"] = f"{moment.astimezone():%H:%M:%S.%f}"
    return entry


# Tracebacks without the values of variables, which structlog shows by itself: some of them are secrets.
add_traceback: Final = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def to_json(logger: WrappedLogger, method: str, entry: EventDict) -> str:
    """The line for a machine. The last processor; it calls the one that few lines need only for those."""
    if "exc_info" in entry:
        entry = add_traceback(logger, method, entry)
    return orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode()


class Unfailing:
    """A stream that drops what cannot be written. Whoever read our log may be gone, or its disk full: that must not
    stop events from being stored, nor the process from ending."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            return 0
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
    if pretty:
        last: list[Any] = [
            show_local_time,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                pad_event_to=32,
                exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False),
            ),
        ]
    else:
        last = [to_json]
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
