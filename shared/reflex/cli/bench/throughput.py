"""How fast deliveries are worked off: our worker beside pgqueuer at its best, and beside psycopg alone."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from reflex.cli.bench.contestants import our_worker, raw
from reflex.cli.bench.drain import Contestant, Drained, drain
from reflex.cli.bench.peers import Pgqueuer
from reflex.cli.bench.results import Figure, Row, Verdict, beside
from reflex.cli.bench.sample import register
from reflex.cli.bench.setting import Setting

__all__ = ["throughput"]

PROCESSES: Final = (1, 2)
RAW_BATCH: Final = 500
SLOTS: Final = (100, 200, 400)
QUICK_SLOTS: Final = (100,)


def throughput(setting: Setting) -> list[Row]:
    """Every setting once with each number of processes; then the best ones in turn, as often as asked."""
    peer = Pgqueuer(setting.peers_python)
    with ExitStack() as stack:
        ours = stack.enter_context(setting.database())
        register(ours)
        measured = Measured(setting, ours)
        default, limit = our_worker(), raw(RAW_BATCH)
        candidates = [our_worker(slots) for slots in setting.sized(SLOTS, QUICK_SLOTS)]
        peers: Sequence[Contestant] = ()
        if not peer.missing:
            theirs = stack.enter_context(setting.database(migrated=False))
            peer.install(theirs)
            peers = peer.contestants(quick=setting.quick)
            measured.elsewhere = {each.name: theirs for each in peers}
        rows: list[Row] = []
        for processes in PROCESSES:
            best = measured.best_of(candidates, processes, count=1)
            best_peers = measured.best_of(peers, processes, count=2)
            for run in range(setting.runs):
                setting.say(f"drain: run {run + 1} of {setting.runs}, {processes} process(es)")
                turns = [default, *best, *best_peers, limit]
                # There and back again: what drifts drifts for all of them.
                for contestant in turns if run % 2 == 0 else reversed(turns):
                    measured.run(contestant, processes)
            rows += report(measured, processes, default, best[0], best_peers, limit, peer.missing)
    return rows


class Measured:
    """The drains so far."""

    def __init__(self, setting: Setting, url: str) -> None:
        self.setting = setting
        self.url = url
        self.elsewhere: dict[str, str] = {}
        self.found: dict[tuple[str, int], list[Drained]] = defaultdict(list)
        self.tried: dict[int, dict[str, int]] = defaultdict(dict)

    def best_of(self, contestants: Sequence[Contestant], processes: int, *, count: int) -> list[Contestant]:
        """Those that are fastest in one drain each."""
        rates: dict[str, float] = {}
        if len(contestants) <= count:
            return list(contestants)
        for contestant in contestants:
            self.setting.say(f"drain: trying {contestant.name}, {processes} process(es)")
            rates[contestant.name] = self.once(contestant, processes).rate
        self.tried[processes] |= {name: round(rate) for name, rate in rates.items()}
        return sorted(contestants, key=lambda contestant: -rates[contestant.name])[:count]

    def run(self, contestant: Contestant, processes: int) -> None:
        self.found[contestant.name, processes].append(self.once(contestant, processes))

    def once(self, contestant: Contestant, processes: int) -> Drained:
        url = self.elsewhere.get(contestant.name, self.url)
        count = self.setting.sized(50_000, 3_000)
        contestant.refill(url, count)
        return drain(url, contestant, processes=processes, count=count, folder=self.setting.folder)

    def figure(self, contestant: Contestant, processes: int) -> Figure:
        return Figure(tuple(drained.rate for drained in self.found[contestant.name, processes]), "/s")

    def cpu_us(self, contestant: Contestant, processes: int) -> dict[str, list[float | None]]:
        """CPU time for each delivery, run by run: of its processes, and of PostgreSQL while it drains."""
        found = self.found[contestant.name, processes]
        times = {"processes": [each.cpu_us for each in found], "server": [each.server_cpu_us for each in found]}
        return {name: [each and round(each, 1) for each in values] for name, values in times.items()}


def report(
    measured: Measured,
    processes: int,
    default: Contestant,
    best: Contestant,
    peers: Sequence[Contestant],
    limit: Contestant,
    missing: str,
) -> list[Row]:
    def described(contestant: Contestant) -> str:
        return f"drain, {processes} process{'es' * (processes > 1)}: {contestant.name}"

    def row(ours: Contestant, theirs: Contestant, at_least: float | None = None) -> Row:
        details: dict[str, Any] = {
            "cpu_us": measured.cpu_us(ours, processes),
            "their_cpu_us": measured.cpu_us(theirs, processes),
            "tried": measured.tried[processes],
        }
        figures = measured.figure(ours, processes), measured.figure(theirs, processes)
        return beside("drain", described(ours), figures[0], theirs.name, figures[1], at_least=at_least, details=details)

    if not peers:
        return [
            Row("drain", described(best), measured.figure(best, processes), verdict=Verdict.SKIPPED, note=missing),
            row(default, limit),
            row(best, limit),
        ]
    peer = max(peers, key=lambda contestant: measured.figure(contestant, processes).median)
    return [row(best, peer, 1.0), row(default, peer, 1.0), row(best, limit)]
