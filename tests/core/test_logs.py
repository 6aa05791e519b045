"""Logs: one object a line, and never a reason to fail."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from reflex.core.logs import configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs(service="worker", format="json", stream=stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_whoever_wrote_it(stream: io.StringIO) -> None:
    structlog.get_logger().info("ours", count=1)
    logging.getLogger("some.library").warning("theirs %s", 2)
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["count"], ours["service"], ours["level"]) == ("ours", 1, "worker", "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("theirs 2", "some.library", "warning")


def test_a_log_that_nobody_reads_any_more_raises_nothing() -> None:
    """Fails without Unfailing: a gateway whose log pipe had lost its reader could not even be stopped any more."""
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "import logging, structlog\n"
        "from reflex.core.logs import configure_logs\n"
        "configure_logs(service='gateway', format='json')\n"
        "structlog.get_logger().info('one')\n"
        "logging.getLogger('x').warning('two')\n"
        "print('still here', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True, timeout=60)
    os.close(writer)
    assert done.stdout == "still here\n"


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_a_traceback_shows_no_values(stream: io.StringIO, format: Literal["json", "pretty"]) -> None:
    """Fails with the tracebacks that structlog makes by itself: they show every variable, and some are secrets."""
    configure_logs(service="gateway", format=format, stream=stream)
    secret = "s3cret".upper()
    for log in (structlog.get_logger().exception, logging.getLogger("some.library").exception):
        try:
            fail(secret)
        except ZeroDivisionError:
            log("it failed")
    assert stream.getvalue().count("ZeroDivisionError") >= 2
    assert "test_logs.py" in stream.getvalue()
    assert secret not in stream.getvalue()


def fail(secret: str) -> float:
    copy = {"password": secret}
    return 1 / (len(copy) - 1)
