"""What becomes of a delivery whose run failed: tried again, when, or dead; and the error as people will read it."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

from reflex.agent.signals import Reject, Retry
from reflex.core.errors import ReflexError

__all__ = ["MAX_ERROR_BYTES", "Failure", "classify", "error_text"]

MAX_ERROR_BYTES: Final = 8 * 1024
MAX_MESSAGE_LENGTH: Final = 3000
MAX_FRAMES: Final = 6
# A provider may ask for any wait; a delivery that sleeps longer than this should be looked at instead.
LONGEST_WAIT: Final = timedelta(days=1)
# Errors of our own that another attempt would only pay for again: the event, the output, the code, a budget, a limit or
# a state must change.
FINAL_CODES: Final = frozenset(
    {
        "budget",
        "effect_misuse",
        "event_rejected",
        "inbox",
        "keyless_event",
        "output",
        "publish",
        "state",
        "step_too_large",
        "unpriced_model",
    }
)
# Failures that follow from what the model said: replaying its answers would end the same way each time. A request that
# the provider refuses is one, since it repeats those answers; the first request of a run has none before it.
POISONED_CODES: Final = frozenset({"model_behavior", "model_refused", "output"})

SECRET_NAME: Final = re.compile(r"(_|^)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)$")
SECRET_SHAPE: Final = re.compile(
    r"\b(?:sk|pk|gsk|xai)-[\w*-]{8,}|(?<=Bearer )[\w.~+/=-]{8,}|(?<=://)[^\s:/@]+:[^\s/@]+(?=@)"
)
SHORTEST_SECRET: Final = 8
LIBRARIES: Final = ("site-packages", "dist-packages", os.path.dirname(os.__file__) + os.sep)
OURS: Final = tuple(sys.modules["reflex"].__path__)


@dataclass(frozen=True, slots=True)
class Failure:
    """The decision. "retry" follows the trigger's policy, or waits `retry_after` where that is set; the limit on
    attempts holds either way. `reason_code` is stored and never renamed."""

    kind: Literal["retry", "dead"]
    retry_after: timedelta | None
    reason_code: str
    error_text: str

    @property
    def poisoned(self) -> bool:
        """Whether the next attempt must ask the model anew instead of replaying its answers from the journal."""
        return self.reason_code in POISONED_CODES


def classify(error: BaseException) -> Failure:
    """Decide what a failed run means.

    Dead at once: `Reject`, an event that its class refuses, an output or a published event that cannot be stored, a
    usage limit or a budget that is to end it (they are there to stop the spending), a model without the price that a
    budget needs. Everything else is tried again by the policy: a provider's 500 as well as its 401, since the same
    delivery may meet a worker with the right key, and as a dead letter it can be retried once the key is right. A rate
    limit waits as long as the provider asks.
    """
    kind: Literal["retry", "dead"] = "retry"
    retry_after: timedelta | None = None
    reason = "exception"
    hint = ""
    for leaf in leaves(error):
        match leaf:
            case Reject():
                kind, reason = "dead", "rejected"
            case Retry():
                retry_after, reason = longer(retry_after, leaf.after), "retry"
            case ReflexError():
                reason = leaf.code
                kind = "dead" if leaf.code in FINAL_CODES else kind
            case TimeoutError():
                reason = "timeout"
            case _:
                found = model_failure(leaf)
                if found is not None:
                    reason, wait, hint = found
                    retry_after = longer(retry_after, wait)
                    kind = "dead" if reason == "usage_limit" else kind
        if kind == "dead":
            retry_after = None
            break
    return Failure(kind, retry_after, reason, error_text(error, hint=hint))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The error itself, or the errors of a group (a TaskGroup's, a FallbackModel's), one by one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error


def longer(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return one if other is None else other if one is None else max(one, other)


def model_failure(error: BaseException) -> tuple[str, timedelta | None, str] | None:
    """Reason, wait and hint of an error of a model or of pydantic-ai; None if it is neither."""
    exceptions: Any = sys.modules.get("pydantic_ai.exceptions")
    if exceptions is None:
        return None
    if isinstance(error, exceptions.ModelAPIError):
        status: int | None = getattr(error, "status_code", None)
        seconds: float | None = getattr(error, "retry_after", None)
        wait = None if seconds is None else min(timedelta(seconds=min(seconds, 1e9)), LONGEST_WAIT)
        if isinstance(error, exceptions.ModelAuthenticationError) or status in (401, 403):
            return "model_credentials", wait, "check the provider's key in this worker's environment"
        if isinstance(error, exceptions.ModelNotFoundError) or status == 404:
            return "model_not_found", wait, "check the model's name, in DEFAULT_MODEL or in the agent"
        if isinstance(error, exceptions.ModelRequestRejectedError) or status in (400, 413, 422):
            return "model_refused", wait, "the provider refused the request itself; the same one will be refused again"
        if isinstance(error, exceptions.ModelTimeoutError | exceptions.ModelRequestTimeout):
            return "model_timeout", wait, ""
        return ("rate_limited" if status == 429 else "model_unavailable"), wait, ""
    if isinstance(error, exceptions.UsageLimitExceeded):
        return "usage_limit", None, ""
    if isinstance(error, exceptions.ConcurrencyLimitExceeded):
        return "model_busy", None, "more runs wait for the model than its ConcurrencyLimit lets queue"
    # A sibling of these, a run that its own code has cancelled, is no word of the model's.
    if isinstance(error, exceptions.UnexpectedModelBehavior):
        return "model_behavior", None, ""
    if isinstance(error, exceptions.UserError):
        return "agent_misuse", None, "the agent is set up in a way that pydantic-ai refuses"
    return None


def error_text(error: BaseException, *, hint: str = "") -> str:
    """Type and message, the last lines of the author's own code, and the causes; at most MAX_ERROR_BYTES, free of
    secrets and of what PostgreSQL cannot hold."""
    lines = [headline(error)]
    if hint:
        lines.append(f"  ({hint})")
    for leaf in leaves(error):
        if leaf is not error:
            lines.append(f"  - {headline(leaf)}")
        lines.extend(f"    {line}" for line in own_lines(leaf))
        cause = leaf.__cause__ or (None if leaf.__suppress_context__ else leaf.__context__)
        for _ in range(3):
            if cause is None:
                break
            lines.append(f"  caused by {headline(cause)}")
            lines.extend(f"    {line}" for line in own_lines(cause))
            cause = cause.__cause__
    encoded = storable(without_secrets("\n".join(lines))).encode()
    if len(encoded) > MAX_ERROR_BYTES:
        encoded = encoded[: MAX_ERROR_BYTES - 4] + b" ..."
    return encoded.decode("utf-8", "ignore")


def headline(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", "reflex.agent.signals")
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (an author's __str__; its failure must not replace the one we report)
        message = "(its text cannot be shown)"
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[:MAX_MESSAGE_LENGTH] + " ..."
    return storable(f"{name}: {message}") if message else name


def own_lines(error: BaseException) -> list[str]:
    """Where the error came through code that is neither ours nor a library's, innermost last. An app that is itself
    installed as a library has no such code: then the innermost places that are not ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_elsewhere(frame.filename, OURS)]
    own = [frame for frame in frames if is_own(frame.filename)]
    return [
        f"{shown(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line}"
        for frame in (own or frames[-2:])[-MAX_FRAMES:]
    ]


def is_own(filename: str) -> bool:
    """Whether the file is the author's, as far as its place tells."""
    return is_elsewhere(filename, OURS) and not any(part in filename for part in LIBRARIES)


def is_elsewhere(filename: str, folders: tuple[str, ...]) -> bool:
    return not filename.startswith(("<", *folders))


def shown(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return str(Path(*Path(filename).parts[-2:]))


def storable(text: str) -> str:
    """As PostgreSQL can hold it: whatever a tool, a file name or a provider said, without NUL and half characters."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def without_secrets(text: str) -> str:
    """Without the values of variables that hold secrets, and without what looks like a key."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_NAME.search(name.upper()) and value in text:
            text = text.replace(value, f"[{name}]")
    return SECRET_SHAPE.sub("[secret]", text)
