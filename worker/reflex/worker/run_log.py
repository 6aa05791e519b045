"""The log line of each run that succeeded, written together with those of the same pass of the event loop."""

import asyncio
import logging
from contextvars import Context, copy_context
from datetime import UTC, datetime
from typing import Any, Final

import structlog

__all__ = ["RunLog"]

MESSAGE: Final = "run succeeded"


class RunLog:
    """Keeps the lines of short runs until the event loop comes round, which costs a third of writing them one by one
    between the runs: the code of the log is then in the processor's cache. A crash in between loses no line of a run
    that was settled: that comes later still."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger().bind()
        self._wanted: bool = self._log.is_enabled_for(logging.INFO)
        self._lines: list[tuple[Context, dict[str, Any]]] = []

    def succeeded(self, *, duration_ms: float, published: int) -> None:
        """The run around the caller has ended. Its line has the ids, and whatever its code has bound to the log."""
        if not self._wanted:
            return
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        fields = {"duration_ms": duration_ms, "published": published, "timestamp": datetime.now(UTC)}
        self._lines.append((copy_context(), fields))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        for context, fields in lines:
            context.run(self._log.info, MESSAGE, **fields)
