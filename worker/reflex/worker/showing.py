"""Where a worker's numbers are shown: at a port of its own, to the supervisor that started it, to a collector.

All of it is done by threads: code of agents that blocks the event loop is no reason not to be seen.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from reflex.core.errors import ConfigurationError
from reflex.core.exposition import Exposed
from reflex.core.metric_push import Push, push_wanted
from reflex.core.series import Reading
from reflex.core.settings import Settings
from reflex.worker.group_metrics import GroupMetrics, answer_supervisor, has_supervisor
from reflex.worker.supervisor import supervise

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["metrics_port", "metrics_wanted", "shown", "supervised"]

Read = Callable[[], Sequence[Reading]]


class Live:
    """What prometheus-client's server asks at each scrape."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> "Iterator[Metric]":
        return Exposed(self._read()).collect()


def metrics_wanted(settings: Settings) -> bool:
    """Whether anybody is shown the numbers."""
    return settings.metrics_port is not None or has_supervisor() or push_wanted()


@contextmanager
def shown(settings: Settings, read: Read) -> Generator[None]:
    """Meanwhile the numbers of this process are shown to all who want them.

    Raises:
        ConfigurationError: REFLEX_METRICS_PORT cannot be listened on.
    """
    with ExitStack() as stack:
        if has_supervisor():
            answer_supervisor(read)
        elif settings.metrics_port is not None:
            stack.enter_context(metrics_port(settings.metrics_host, settings.metrics_port, read))
        if push_wanted():
            push = Push("reflex-worker", read)
            push.start()
            stack.callback(push.stop)
        yield


def supervised(arguments: list[str], settings: Settings) -> int:
    """As `supervise`; at REFLEX_METRICS_PORT, if it is set, all processes are shown as one."""
    if settings.metrics_port is None:
        return supervise(arguments, settings.processes)
    metrics = GroupMetrics()
    with metrics_port(settings.metrics_host, settings.metrics_port, metrics.read):
        return supervise(arguments, settings.processes, metrics)


@contextmanager
def metrics_port(host: str, port: int, read: Read) -> Generator[int]:
    """A tiny HTTP server, which gives the numbers to whoever asks. Port 0 takes a free one; yields the port.

    Raises:
        ConfigurationError: It cannot be listened on.
    """
    from prometheus_client.exposition import start_wsgi_server

    registry: Any = Live(read)
    try:
        server, thread = start_wsgi_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"the metrics of the worker cannot be shown at {host}:{port}: {error.strerror or error}; choose another "
            "REFLEX_METRICS_PORT or REFLEX_METRICS_HOST. Each worker on a machine needs a port of its own; "
            "--processes share one"
        ) from None
    structlog.get_logger().info("metrics are shown", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1)
