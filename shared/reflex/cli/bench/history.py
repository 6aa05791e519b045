"""Whether a drain gets slower with what has piled up: a million finished runs and a million pending deliveries."""

from functools import partial
from typing import Final

from reflex.cli.bench.contestants import our_worker, refill
from reflex.cli.bench.drain import drain
from reflex.cli.bench.results import Figure, Row, beside
from reflex.cli.bench.sample import fill, register, settle_down
from reflex.cli.bench.setting import Setting

__all__ = ["history"]

PROCESSES: Final = (1, 2)


def history(setting: Setting) -> list[Row]:
    """The time to the start of the first 50,000, in turn with tables that hold nothing else.

    The full tables lose those of one run before the next: 5 % of what is pending.
    """
    count = setting.sized(50_000, 3_000)
    piled_up = setting.sized(1_000_000, 30_000)
    contestant = our_worker()
    full_rates: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    empty_rates: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    with setting.database() as empty, setting.database() as full:
        register(empty)
        register(full)
        setting.say(f"history: making {piled_up:,} finished runs and as many pending deliveries")
        fill(full, pending=piled_up, finished=piled_up)
        for run in range(setting.runs):
            for processes in PROCESSES:
                setting.say(f"history: run {run + 1} of {setting.runs}, {processes} process(es)")
                refill(empty, count)
                settle_down(full)
                measure = partial(drain, contestant=contestant, processes=processes, count=count, folder=setting.folder)
                empty_rates[processes].append(measure(empty).start_rate)
                full_rates[processes].append(measure(full, to_the_end=False).start_rate)
    return [
        beside(
            "history",
            f"drain with {piled_up:,} finished, {piled_up:,} pending, {processes} process{'es' * (processes > 1)}",
            Figure(tuple(full_rates[processes]), "/s"),
            "empty tables",
            Figure(tuple(empty_rates[processes]), "/s"),
            at_least=0.9,
        )
        for processes in PROCESSES
    ]
