import asyncio
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_ai.exceptions import (
    ConcurrencyLimitExceeded,
    FallbackExceptionGroup,
    ModelAuthenticationError,
    ModelHTTPError,
    ModelRateLimitError,
    RunCancelled,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UserError,
)

from reflex.agent.execution import OutputError, RunTimeout
from reflex.agent.failures import MAX_ERROR_BYTES, classify, error_text, headline
from reflex.agent.filters import FilterError
from reflex.agent.prices import UnpricedModel
from reflex.agent.publishing import PublishError
from reflex.agent.signals import Reject, Retry
from reflex.core.errors import EventRejected


def http_error(status: int, retry_after: str | None = None) -> ModelHTTPError:
    return ModelHTTPError(status, "m", headers={"Retry-After": retry_after} if retry_after else {})


def rate_limit(retry_after: str | None = None) -> ModelHTTPError:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return ModelHTTPError.for_category(ModelRateLimitError, status_code=429, model_name="m", headers=headers)


class Strict(BaseModel):
    x: int


def validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as e:
        Strict.model_validate({})
    return e.value


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("error", "kind", "wait", "reason"),
    [
        (Retry(), "retry", None, "retry"),
        (Retry(after=MINUTE), "retry", MINUTE, "retry"),
        (Retry(after=1.5, reason="busy"), "retry", timedelta(seconds=1.5), "retry"),
        (Reject("no such customer"), "dead", None, "rejected"),
        (EventRejected("bad"), "dead", None, "event_rejected"),
        (OutputError("too large"), "dead", None, "output"),
        (PublishError("too deep"), "dead", None, "publish"),
        (UsageLimitExceeded("enough"), "dead", None, "usage_limit"),
        (UnpricedModel("which?"), "dead", None, "unpriced_model"),
        (ValueError("x"), "retry", None, "exception"),
        (validation_error(), "retry", None, "exception"),  # of the agent's own making, not the event's
        (FilterError("x"), "retry", None, "filter"),
        (RunTimeout("x"), "retry", None, "timeout"),
        (TimeoutError("x"), "retry", None, "timeout"),
        (UserError("x"), "retry", None, "agent_misuse"),
        (UnexpectedModelBehavior("x"), "retry", None, "model_behavior"),
        (ConcurrencyLimitExceeded("x"), "retry", None, "model_busy"),
        (RunCancelled("x"), "retry", None, "exception"),
        (http_error(500), "retry", None, "model_unavailable"),
        (http_error(503, "60"), "retry", MINUTE, "model_unavailable"),
        (http_error(400), "retry", None, "model_refused"),
        (http_error(403), "retry", None, "model_credentials"),
        (http_error(404), "retry", None, "model_not_found"),
        (http_error(408), "retry", None, "model_unavailable"),
        (rate_limit(), "retry", None, "rate_limited"),
        (rate_limit("60"), "retry", MINUTE, "rate_limited"),
        (rate_limit("nonsense"), "retry", None, "rate_limited"),
        (rate_limit("99999999999999"), "retry", timedelta(days=1), "rate_limited"),
        (rate_limit("-5"), "retry", None, "rate_limited"),
        (ExceptionGroup("g", [ValueError("x"), Reject("no")]), "dead", None, "rejected"),
        (ExceptionGroup("g", [Retry(after=1), Retry(after=60), Retry()]), "retry", MINUTE, "retry"),
        (ExceptionGroup("g", [Retry(after=60), Retry(after=1)]), "retry", MINUTE, "retry"),
        (FallbackExceptionGroup("g", [http_error(500), rate_limit("60")]), "retry", MINUTE, "rate_limited"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_a_failure_means(error: BaseException, kind: str, wait: timedelta | None, reason: str) -> None:
    failure = classify(error)
    assert (failure.kind, failure.retry_after, failure.reason_code) == (kind, wait, reason)


def test_a_retry_after_that_is_a_date_is_a_wait_from_now() -> None:
    wait = classify(rate_limit(format_datetime(datetime.now(UTC) + 2 * MINUTE, usegmt=True))).retry_after
    assert wait is not None
    assert timedelta(seconds=100) < wait <= 2 * MINUTE
    past = classify(rate_limit(format_datetime(datetime.now(UTC) - MINUTE, usegmt=True))).retry_after
    assert past == timedelta(0)


@pytest.mark.parametrize("after", [-1, timedelta.max, float("nan"), float("inf")])
def test_a_wait_is_not_negative_and_has_an_end(after: timedelta | float) -> None:
    """Fails if it is found to be none by PostgreSQL, when the run has ended: it would be a dead letter."""
    with pytest.raises(ValueError, match=r"Retry\(after="):
        Retry(after=after)


def test_a_refused_key_says_where_to_look() -> None:
    refused = ModelHTTPError.for_category(ModelAuthenticationError, status_code=401, model_name="m", body="no")
    failure = classify(refused)
    assert (failure.kind, failure.reason_code) == ("retry", "model_credentials")
    assert "check the provider's key" in failure.error_text


async def test_a_signal_that_a_task_group_wrapped_is_still_understood() -> None:
    async def part() -> None:
        raise Retry(after=60)

    with pytest.raises(ExceptionGroup) as e:
        async with asyncio.TaskGroup() as group:
            group.create_task(part())
    assert classify(e.value).retry_after == MINUTE


def failing(message: str = "no stock") -> None:
    raise LookupError(message)


def caught(error: type[BaseException]) -> BaseException:
    try:
        failing()
    except LookupError as cause:
        try:
            raise error("order failed") from cause
        except error as result:
            return result
    raise AssertionError


def test_the_error_text_shows_type_message_the_authors_lines_and_the_cause() -> None:
    lines = error_text(caught(ValueError)).splitlines()
    assert lines[0] == "ValueError: order failed"
    assert "test_failures.py:" in lines[1]
    assert " in caught: " in lines[1]
    assert "raise error" in lines[1]
    assert "  caused by LookupError: no stock" in lines
    assert any("in failing: raise LookupError(message)" in line for line in lines)


def test_the_lines_of_libraries_are_left_out() -> None:
    with pytest.raises(OSError, match="nonexistent") as e:
        Path("/nonexistent/file").read_text()
    text = error_text(e.value)
    assert "pathlib.py" not in text
    assert "test_failures.py" in text


def test_lines_in_the_working_folder_are_shown_relative_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert "\n    test_failures.py:" in error_text(caught(ValueError))
    monkeypatch.chdir("/")
    assert f"\n    {Path(__file__).relative_to('/')}:" in error_text(caught(ValueError))


@pytest.mark.parametrize("message", ["x" * 100_000, "ä" * 100_000, "\U0001f600" * 9_000, "\ud800" * 9_000])
def test_the_error_text_is_bounded_and_storable(message: str) -> None:
    error = caught(ValueError)
    assert isinstance(error, Exception)
    error.args = ("\x00" + message,)
    text = error_text(ExceptionGroup(message, [error] * 50))
    assert len(text.encode()) <= MAX_ERROR_BYTES
    assert "\x00" not in text
    # What a delivery waits for is told by this alone.
    assert headline(error).encode().startswith(b"ValueError: \xef\xbf\xbd")


def test_an_exception_whose_text_cannot_be_made_is_still_reported() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Odd: (its text cannot be shown)" in classify(Odd()).error_text


def test_keys_do_not_reach_the_error_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "acme-1234567890")
    monkeypatch.setenv("SHOP_TOKEN", "t0ken-t0ken")
    monkeypatch.setenv("SHORT_API_KEY", "1")
    text = error_text(
        ValueError(
            "acme-1234567890 t0ken-t0ken, key 1, Incorrect API key provided: sk-proj-abcdefgh1234, "
            "Authorization: Bearer abcdefgh12345678, postgresql://user:hunter2@db:5432/x"
        )
    )
    for secret in ("acme-1234567890", "t0ken-t0ken", "sk-proj-abcdefgh1234", "abcdefgh12345678", "hunter2"):
        assert secret not in text
    assert "[ACME_API_KEY]" in text
    assert "key 1," in text
    assert "db:5432" in text


def test_failures_are_told_apart_without_pydantic_ai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic_ai.exceptions")
    assert classify(ValueError("x")).kind == "retry"
