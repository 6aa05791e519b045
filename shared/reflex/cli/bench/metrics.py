"""What it costs to be scraped once a second: ingest and drain, each beside the same without, in turn."""

import http.client
import threading
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from reflex.cli.bench.contestants import our_worker
from reflex.cli.bench.drain import drain
from reflex.cli.bench.processes import BenchmarkFailed, free_port, load
from reflex.cli.bench.results import Figure, Row, beside
from reflex.cli.bench.sample import register, write_bodies
from reflex.cli.bench.services import gateway
from reflex.cli.bench.setting import Setting

__all__ = ["metrics"]

EVERY_S: Final = 1.0
AT_LEAST: Final = 0.95
CONNECTIONS: Final = 64
SCRAPED, LEFT_ALONE = "scraped each second", "not scraped"
HEADERS: Final = {"accept": "application/openmetrics-text;version=1.0.0"}


def metrics(setting: Setting) -> list[Row]:
    """A gateway counts whether it is scraped or not; a worker that is not to be scraped counts nothing."""
    return [ingest(setting), drained(setting)]


def ingest(setting: Setting) -> Row:
    found: dict[str, list[float]] = defaultdict(list)
    scrapes = 0
    seconds = setting.sized(3.0, 0.5)
    with setting.database() as url:
        register(url)
        event, _ = write_bodies(setting.folder)
        with gateway(setting.folder, url) as front:
            send = partial(load, front.port, event, connections=CONNECTIONS)
            send(seconds=setting.sized(1.0, 0.2))
            for run in range(setting.runs):
                setting.say(f"metrics: ingest, run {run + 1} of {setting.runs}")
                counted: dict[str, int] = defaultdict(int)
                turns = setting.sized([SCRAPED, LEFT_ALONE, LEFT_ALONE, SCRAPED], [SCRAPED, LEFT_ALONE])
                for turn in turns:
                    if turn == SCRAPED:
                        with scraped(front.port) as scraper:
                            counted[turn] += send(seconds=seconds)["requests"]
                        scrapes += scraper.scrapes
                    else:
                        counted[turn] += send(seconds=seconds)["requests"]
                for turn, requests in counted.items():
                    found[turn].append(requests / (turns.count(turn) * seconds))
    return row(f"POST /events, {CONNECTIONS} connections", found, "events/s", scrapes)


def drained(setting: Setting) -> Row:
    found: dict[str, list[float]] = defaultdict(list)
    scrapes = 0
    count = setting.sized(50_000, 3_000)
    with setting.database() as url:
        register(url)
        for run in range(setting.runs):
            setting.say(f"metrics: drain, run {run + 1} of {setting.runs}")
            turns = [SCRAPED, LEFT_ALONE]
            for turn in turns if run % 2 == 0 else reversed(turns):
                port = free_port()
                contestant = our_worker()
                contestant.refill(url, count)
                if turn == LEFT_ALONE:
                    found[turn].append(drain(url, contestant, processes=1, count=count, folder=setting.folder).rate)
                    continue
                shown = replace(contestant, env={**contestant.env, "REFLEX_METRICS_PORT": str(port)})
                with scraped(port) as scraper:
                    found[turn].append(drain(url, shown, processes=1, count=count, folder=setting.folder).rate)
                scrapes += scraper.scrapes
    return row("drain, 1 process", found, "/s", scrapes)


def row(what: str, found: dict[str, list[float]], unit: str, scrapes: int) -> Row:
    if not scrapes:
        raise BenchmarkFailed(f"{what}: nothing was scraped")
    with_it, without = (Figure(tuple(found[turn]), unit) for turn in (SCRAPED, LEFT_ALONE))
    return beside(
        "metrics", f"{what}, {SCRAPED}", with_it, LEFT_ALONE, without, at_least=AT_LEAST, details={"scrapes": scrapes}
    )


class Scraper(threading.Thread):
    """Asks for the numbers once a second, from the moment on when there is somebody to ask."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.scrapes = 0
        self._port = port
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(EVERY_S if self.scrapes else EVERY_S / 10):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/metrics", headers=HEADERS)
                answer = connection.getresponse()
                text = answer.read()
            except OSError:  # a worker that is still starting, or has ended
                continue
            finally:
                connection.close()
            self.scrapes += answer.status == http.client.OK and text.endswith(b"# EOF\n")

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@contextmanager
def scraped(port: int) -> Generator[Scraper]:
    scraper = Scraper(port)
    scraper.start()
    try:
        yield scraper
    finally:
        scraper.stop()
