"""What a worker counts, if somebody wants to know (see `showing`). Otherwise there is none of it."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from reflex.core.queue import Exchanged
from reflex.core.series import Counter, Histogram, Observed, Reading, gauges
from reflex.core.settlement import NOT_BEGUN, Claimed, Outcome, Settlement

__all__ = ["WorkerMetrics"]


class WorkerMetrics:
    """The numbers of one worker process since it started, over all its incarnations.

    Attributes:
        triggers: The names of triggers by their ids.
        slots: How many are taken, and how many there are.
        ended: Runs that have ended, and how many seconds they took. Counted with the next exchange, all in one go:
            between two runs the code that counts is not in the processor's cache, and costs several times as much.
    """

    def __init__(self, app: str) -> None:
        self.triggers: Mapping[int, str] = {}
        self.slots: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.ended: list[tuple[Claimed, Settlement, float]] = []
        self.reaped = Counter("reflex_leases_reaped_total", ())
        self._app = app
        self._runs = Counter("reflex_runs_total")
        self._dead = Counter("reflex_deliveries_died_total")
        self._durations = Histogram("reflex_run_duration_seconds")
        self._observed: dict[int, Observed] = {}
        self._exchanges = Histogram("reflex_exchange_duration_seconds")
        self._discarded = Counter("reflex_outcomes_discarded_total", (app,))
        self._requests = Counter("reflex_model_requests_total")
        self._tokens = Counter("reflex_model_tokens_total")
        self._cost = Counter("reflex_model_cost_usd_total")

    def exchanged(self, settlements: Sequence[Settlement], exchanged: Exchanged, *, limit: int, took_s: float) -> None:
        """An exchange was answered. What was late counts as discarded, and what gave way as given back."""
        self._count_ended()
        kind = "both" if settlements and limit > 0 else "settle" if settlements else "claim"
        self._exchanges.observe(took_s, (self._app, kind))
        if exchanged.conflicts or exchanged.stale:
            settlements = list(self._that_hold(settlements, exchanged))
        # Most are alike in trigger, outcome and reason: counted together they cost a third of one by one.
        alike = collections.Counter([(each[0], each[3], each[8]) for each in settlements])
        for (trigger_id, outcome, reason), count in alike.items():
            self._count(trigger_id, outcome, reason, count)
        for each in [each for settlement in settlements if settlement.with_it for each in settlement.with_it]:
            self._count(each.trigger_id, each.outcome, each.reason, 1)

    def answered(self, trigger: str, model: str, *, input_tokens: int, output_tokens: int, usd: Decimal | None) -> None:
        """A model answered a request of a run. `usd` None: nobody knows what it cost."""
        labels = self._app, trigger, model
        self._requests.add(labels)
        self._tokens.add((*labels, "input"), input_tokens)
        self._tokens.add((*labels, "output"), output_tokens)
        if usd is not None:
            self._cost.add(labels, float(usd))

    def read(self) -> list[Reading]:
        taken, slots = self.slots()
        counted = (
            self._runs, self._dead, self._durations, self._exchanges, self._discarded, self.reaped, self._requests,
            self._tokens, self._cost,
        )  # fmt: skip
        return [
            *(reading for series in counted for reading in series.read()),
            *gauges("reflex_slots", {(self._app, "used"): taken, (self._app, "free"): max(0, slots - taken)}),
        ]

    def _count_ended(self) -> None:
        for lease, settlement, took_s in self.ended:
            if settlement.outcome is not Outcome.SKIPPED:
                observed = self._observed.get(lease.trigger_id)
                if observed is None:
                    labels = self._app, self._name(lease.trigger_id)
                    observed = self._observed[lease.trigger_id] = self._durations.series(labels)
                observed.count(took_s, lease.trace_context)
        self.ended.clear()

    def _that_hold(self, settlements: Sequence[Settlement], exchanged: Exchanged) -> Iterator[Settlement]:
        conflicts = {conflict[:2] for conflict in exchanged.conflicts}
        for settlement in settlements:
            if settlement[:2] in exchanged.stale:
                self._discarded.add((self._app,))
            elif settlement[:2] in conflicts:
                yield settlement._replace(outcome=Outcome.RELEASED, reason=None, with_it=())
            else:
                yield settlement

    def _count(self, trigger_id: int, outcome: Outcome, reason: str | None, count: int) -> None:
        if reason == NOT_BEGUN:
            return  # it leaves no run
        trigger = self._name(trigger_id)
        self._runs.add((self._app, trigger, outcome), count)
        if outcome is Outcome.DEAD:
            self._dead.add((self._app, trigger, reason or "failed"), count)

    def _name(self, trigger_id: int) -> str:
        return self.triggers.get(trigger_id) or str(trigger_id)
