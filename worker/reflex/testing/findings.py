"""What a test of crashes finds, and how it says so."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from textwrap import fill
from typing import Final

from reflex.testing.watching import CrashPoint

__all__ = ["CrashReport", "Finding", "FindingKind"]


class FindingKind(StrEnum):
    """What differs from a run without a crash. The value is what people read."""

    REPEATED = "repeated"  # done again although its step had been recorded
    NOT_RECORDED = "not recorded"  # done again because the crash came before the record
    LOST_EVENT = "lost event"  # published without a crash, and not with it
    OTHER_EVENT = "other event"  # published with the crash only
    DIVERGED = "diverged"  # recorded steps that the next attempt did not use
    OTHER_END = "other end"  # deliveries end otherwise
    UNREACHED = "unreached"  # the app did not come there again
    FAILED = "failed"  # already without a crash


WIDTH: Final = 110
ADVICE: Final = {
    FindingKind.REPEATED: "an attempt after the crash asked something else than the first one, so the journal did not "
    "know it: keep the time of day, random values and the order of sets out of prompts, instructions and arguments",
    FindingKind.NOT_RECORDED: "a tool can be cut between its work and the record of it, and is then executed again. If "
    "that does no harm, say so: declare it pure() if it only reads; repeatable={…} if it gives the other system "
    "ctx.idempotency_key",
    FindingKind.LOST_EVENT: "what is published must follow from the event and from recorded steps, not from what the "
    "process remembers or from the clock (ctx.event.meta.time stays the same)",
    FindingKind.OTHER_EVENT: "as for a lost event; if the difference is meant (a random id, a time), pass "
    "same=<what of an event counts>",
    FindingKind.DIVERGED: "recorded steps were paid for and not used: the next attempt takes another way. Keep what "
    "differs each time out of prompts, instructions, arguments and branches",
    FindingKind.OTHER_END: "a lost attempt counts: RetryPolicy(max_attempts=1) makes every crash a dead letter. What "
    "has no end waits, as for somebody to say whether a tool declared `once` has done its work: a probe can say so",
    FindingKind.UNREACHED: "the app does something else each time it runs: nothing was tested there",
    FindingKind.FAILED: "make it work without crashes first",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, after a crash at one point; None: without any."""

    kind: FindingKind
    what: str
    point: CrashPoint | None = None


@dataclass(frozen=True, slots=True, repr=False)
class CrashReport:
    """What crashes at every step have done to an app. `ok` is False if there is anything to look into.

    Attributes:
        points: Where the worker was killed, in order.
        findings: Differences from the run without a crash, in the order of the points.
        repeatable: The tools of which it is known that executing them again does no harm.
    """

    title: str
    points: Sequence[CrashPoint]
    findings: Sequence[Finding]
    repeatable: Collection[str] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    def of(self, kind: FindingKind | str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def check(self) -> None:
        """Raises AssertionError, with the whole report, unless it is ok."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        killed = f"{self.title}: the worker was killed at {len(self.points)} points"
        if self.ok:
            known = f" (repeatable: {', '.join(sorted(self.repeatable))})" if self.repeatable else ""
            return f"{killed}, and nothing was repeated, lost or changed{known}"
        by_what = sorted(self.findings, key=lambda finding: (list(FindingKind).index(finding.kind), finding.what))
        lines = [f"{killed}, and there is something to look into:"]
        for kind, findings in groupby(by_what, key=lambda finding: finding.kind):
            lines.append("")
            for what, same in groupby(findings, key=lambda finding: finding.what):
                lines.append(f"  {kind.upper():<13} {what}")
                lines.extend(f"  {'':<13}   killed at {finding.point}" for finding in same if finding.point is not None)
            lines.append(fill(ADVICE[kind], WIDTH, initial_indent=f"  {'':<13} -> ", subsequent_indent=" " * 19))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)
