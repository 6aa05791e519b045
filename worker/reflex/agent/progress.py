"""One run's progress: what it does, handed on without ever waiting. Knows nothing of pydantic-ai: see `watching`."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic_core import to_json

from reflex.core.progress import Progress, ProgressKind
from reflex.core.settlement import Claimed

__all__ = ["Audience", "Entry", "RequestProgress", "RunProgress"]

# A text is handed on in pieces that fit into a notification whatever they hold.
MAX_PIECE: Final = 1000
MAX_SHOWN: Final = 2000

# The id of the tool call in which the code runs now: a tool may run an agent.
inside_call: ContextVar[str | None] = ContextVar("reflex_inside_call", default=None)


@dataclass(slots=True, eq=False)
class Entry:
    """A record in the making: texts of one request grow until they are sent. `fields` are those of `Progress`."""

    run: "RunProgress"
    kind: ProgressKind
    fields: dict[str, Any]
    text: str = ""
    request: int | None = None
    seq: int = 0
    dropped: int = 0

    @property
    def is_text(self) -> bool:
        return self.kind in (ProgressKind.TEXT, ProgressKind.THINKING)

    def takes(self, other: "Entry") -> bool:
        """Whether the other one's text can be appended to ours, both of one model request."""
        return self.is_text and self.kind is other.kind and len(self.text) + len(other.text) <= MAX_PIECE

    def record(self) -> Progress:
        """The record as it is sent."""
        claimed = self.run.claimed
        return Progress(
            event_id=str(claimed.event_id),
            delivery_id=str(claimed.delivery_id),
            trigger=self.run.trigger,
            attempt=claimed.attempt,
            type=claimed.type,
            source=claimed.source,
            key=claimed.key,
            correlation_id=claimed.correlation_id,
            seq=self.seq,
            kind=self.kind,
            text=self.text,
            request=self.request,
            dropped=self.dropped,
            **self.fields,
        )


class Audience(Protocol):
    """Who watches this process's runs."""

    @property
    def watched(self) -> bool:
        """Whether anybody does. What is shown otherwise is lost."""
        ...

    def show(self, entry: Entry) -> None:
        """Take it, at once: it is sent later or dropped. Numbers the entry, and counts in its run what was lost."""
        ...


class RunProgress:
    """What one run shows. With nobody watching, each call is a look at the clock.

    Attributes:
        seq: The number of the run's last entry; 0 if nothing was shown yet.
        dropped: How many entries were dropped since the last one that was sent.
    """

    __slots__ = ("audience", "claimed", "dropped", "requests", "seq", "trigger")

    def __init__(self, audience: Audience, claimed: Claimed, trigger: str) -> None:
        self.audience = audience
        self.claimed = claimed
        self.trigger = trigger
        self.seq = 0
        self.dropped = 0
        self.requests = 0

    @property
    def watched(self) -> bool:
        return self.audience.watched

    def started(self) -> None:
        """The run begins. Who begins to watch later is told so with the first thing that follows."""
        if self.watched:
            self._begin()

    def ended(self, outcome: str) -> None:
        """The run has ended. What it returned is in the log, or will be."""
        if self.seq:
            self._show(ProgressKind.RUN_ENDED, outcome=outcome)

    def model_request(self, *, hidden: bool = False) -> "RequestProgress":
        """A model is asked. `hidden` keeps back its text, for one that is no text but the JSON of an output."""
        self.requests += 1
        return RequestProgress(self, self.requests, hidden)

    @contextmanager
    def tool_call(self, tool: str, call_id: str | None, arguments: Any) -> Generator[None]:
        """A tool works inside the block."""
        if self.watched:
            text, truncated = shown(arguments)
            self._show(
                ProgressKind.TOOL_CALL, tool=tool, tool_call_id=call_id, arguments=text, truncated=truncated
            )  # fmt: skip
        token = inside_call.set(call_id)
        try:
            yield
        finally:
            inside_call.reset(token)

    def tool_result(self, tool: str, call_id: str | None, result: Any) -> None:
        """A tool has answered; that the model is to try again is an answer."""
        if self.watched:
            text, truncated = shown(result)
            self._show(ProgressKind.TOOL_RESULT, tool=tool, tool_call_id=call_id, result=text, truncated=truncated)

    def said(self, kind: ProgressKind, text: str, request: int) -> None:
        """A model has said more."""
        for at in range(0, len(text), MAX_PIECE):
            self._show(kind, text=text[at : at + MAX_PIECE], request=request)

    def _begin(self) -> None:
        if not self.seq:
            self.audience.show(Entry(self, ProgressKind.RUN_STARTED, {}))

    def _show(self, kind: ProgressKind, *, text: str = "", request: int | None = None, **fields: Any) -> None:
        if not self.watched:
            return
        self._begin()
        if (inside := inside_call.get()) is not None:
            fields["inside"] = inside
        self.audience.show(Entry(self, kind, fields, text, request))


class RequestProgress:
    """What one model request of a run shows."""

    __slots__ = ("_hidden", "_number", "_run")

    def __init__(self, run: RunProgress, number: int, hidden: bool) -> None:
        self._run = run
        self._number = number
        self._hidden = hidden

    def text(self, delta: str) -> None:
        if not self._hidden:
            self._run.said(ProgressKind.TEXT, delta, self._number)

    def thinking(self, delta: str) -> None:
        self._run.said(ProgressKind.THINKING, delta, self._number)


def shown(value: Any) -> tuple[str, bool]:
    """A value as text of bounded length, and whether it was cut: a text as it is, anything else as JSON."""
    try:
        text = value if isinstance(value, str) else to_json(value, inf_nan_mode="null", fallback=class_name).decode()
    except ValueError:
        # Such as bytes that are no text. The run goes on; only its picture is poorer.
        text = class_name(value)
    return text[:MAX_SHOWN], len(text) > MAX_SHOWN


def class_name(value: Any) -> str:
    return type(value).__qualname__
