"""What the tests of an author's app import. It is made in `reflex.testing`, above the worker: an app on trial runs with
the product's own claim loop.

The fixtures `reflex_app` and `crash_at_every_step` come with the worker's pytest plugin and need no import; see
docs/guides/testing.md.
"""

from reflex.testing.app import AppTest
from reflex.testing.clock import Clock
from reflex.testing.crashes import crash_at_every_step
from reflex.testing.findings import CrashReport, Finding, FindingKind
from reflex.testing.model import Asked, FakeModel, NoAnswer, call, rate_limited
from reflex.testing.plugin import MakeAppTest
from reflex.testing.results import DeadLetter, Run
from reflex.testing.watching import Done
from reflex.testing.worker import Endless

__all__ = [
    "AppTest",
    "Asked",
    "Clock",
    "CrashReport",
    "DeadLetter",
    "Done",
    "Endless",
    "FakeModel",
    "Finding",
    "FindingKind",
    "MakeAppTest",
    "NoAnswer",
    "Run",
    "call",
    "crash_at_every_step",
    "rate_limited",
]
