"""What agents may spend, as an author says it: so many requests, tokens, tool calls or dollars, and for what."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, cast
from zoneinfo import ZoneInfo

from reflex.core.spending import Quantity, Scope

__all__ = ["Budget", "Price", "checked_budgets"]

LONGEST_WINDOW: Final = timedelta(days=366)
SHORTEST_WINDOW: Final = timedelta(seconds=1)
UNITS: Final = {
    Quantity.REQUESTS: "requests",
    Quantity.TOKENS: "tokens",
    Quantity.TOOL_CALLS: "tool calls",
    Quantity.USD: "USD",
}
SCOPES: Final = {
    "run": Scope.RUN,
    "day": Scope.TRIGGER,
    "trigger": Scope.TRIGGER,
    "key": Scope.KEY,
    "tree": Scope.TREE,
}
# Scopes that end by themselves; the others need a window.
WITHOUT_WINDOW: Final = (Scope.RUN, Scope.TREE)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars for a million tokens of input and of output."""

    input: Decimal | float
    output: Decimal | float

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            object.__setattr__(self, name, amount(getattr(self, name), f"a price's {name}", zero=True))

    def of(self, input_tokens: int, output_tokens: int) -> Decimal:
        """In dollars."""
        return (Decimal(self.input) * input_tokens + Decimal(self.output) * output_tokens) / 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent. Exactly one of the quantities is given.

    Args:
        usd: US dollars.
        requests: Model requests. Those that are replayed from the journal, or fail, do not count.
        tokens: Input and output together.
        tool_calls: Calls of tools that are carried out, not replayed.
        per: What it is for: one `"run"` (a delivery, with all its attempts), the trigger for a `"day"`, the
            `"trigger"` or each event `"key"` for a `window`, or the `"tree"` of an event and all that follows from it,
            across triggers.
        window: Of `"trigger"` and `"key"`: windows of this length follow one another without a gap, counted from 1970
            in UTC; a day's begin at midnight in UTC.
        tz: Of `"day"`: where it begins at midnight, as in `"Europe/Stockholm"`.
        when_spent: `"wait"` parks deliveries until the window is over or a person raises the budget
            (`reflex budgets raise`); `"dead"` makes them dead letters.
        prices: Of models by their names, where they are not known or should be others; `"*"` is for all the rest.

    Raises:
        TypeError, ValueError: An argument makes no sense; the sentence names it.
    """

    usd: Decimal | float | None = None
    requests: int | None = None
    tokens: int | None = None
    tool_calls: int | None = None
    per: Literal["run", "day", "trigger", "key", "tree"] = field(kw_only=True)
    window: timedelta | None = field(default=None, kw_only=True)
    tz: str | None = field(default=None, kw_only=True)
    when_spent: Literal["wait", "dead"] = field(default="wait", kw_only=True)
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price], kw_only=True)

    def __post_init__(self) -> None:
        given = [name for name in Quantity if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "nothing is given"
            raise ValueError(f"Budget: {what}; give one of {', '.join(Quantity)}")
        amount(getattr(self, given[0]), f"Budget: {given[0]}", whole=given[0] != Quantity.USD)
        if self.per not in SCOPES:
            raise ValueError(f"Budget: per is {self.per!r}; it is one of {', '.join(map(repr, SCOPES))}")
        self.check_window()
        if self.when_spent not in ("wait", "dead"):
            raise ValueError(f"Budget: when_spent is {self.when_spent!r}; it is 'wait' or 'dead'")
        for name, price in dict(self.prices).items():
            if not isinstance(price, Price):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"Budget: the price of {name!r} is {price!r}; pass a Price, as in Price(3, 15)")
        if self.prices and self.usd is None:
            raise ValueError("Budget: prices are for a budget in usd")

    def check_window(self) -> None:
        if self.per in ("trigger", "key"):
            if not isinstance(self.window, timedelta):
                raise ValueError(f"Budget: per={self.per!r} needs a window, as in window=timedelta(days=1)")
            if not SHORTEST_WINDOW <= self.window <= LONGEST_WINDOW:
                raise ValueError(f"Budget: window is {self.window}; it is 1 second to {LONGEST_WINDOW.days} days")
        elif self.window is not None:
            raise ValueError(f"Budget: per={self.per!r} has no window; it goes with per='trigger' or per='key'")
        if self.tz is not None:
            if self.per != "day":
                raise ValueError(f"Budget: tz says where a day begins; per is {self.per!r}")
            try:
                ZoneInfo(self.tz)
            except (ValueError, OSError, KeyError, TypeError):
                raise ValueError(f"Budget: tz is {self.tz!r}; write a name such as 'Europe/Stockholm'") from None

    @property
    def quantity(self) -> Quantity:
        return next(name for name in Quantity if getattr(self, name) is not None)

    @property
    def allowed(self) -> Decimal:
        return Decimal(str(getattr(self, self.quantity)))

    @property
    def scope(self) -> Scope:
        return SCOPES[self.per]

    @property
    def zone(self) -> str | None:
        """The time zone of a day; None if the window is none."""
        return (self.tz or "UTC") if self.per == "day" else None

    @property
    def period(self) -> str:
        """The window's name, as it is stored; empty if there is none."""
        if self.per == "day":
            return "day" if self.tz is None else f"day in {self.tz}"
        return "" if self.window is None else str(self.window)

    def __str__(self) -> str:
        """As people read it: `5 USD a day`, `20 requests a run`."""
        what = f"{shown(self.allowed)} {UNITS[self.quantity]}"
        match self.per:
            case "day":
                return f"{what} a {self.period}"
            case "trigger":
                return f"{what} in {self.period}"
            case "key":
                return f"{what} a key in {self.period}"
            case _:
                return f"{what} a {self.per}"


def checked_budgets(name: str, budgets: object) -> tuple[Budget, ...]:
    """The budgets of the trigger `name`.

    Raises:
        TypeError: They are none.
        ValueError: Two of them are for the same.
    """
    if budgets is None:
        return ()
    given: list[Any] = list(cast("Iterable[Any]", budgets)) if isinstance(budgets, Iterable) else [budgets]
    if isinstance(budgets, str) or not all(isinstance(budget, Budget) for budget in given):
        raise TypeError(f"trigger {name!r}: budgets is {budgets!r}; pass a list, as in [Budget(usd=5, per='day')]")
    found: dict[Any, Budget] = {}
    for budget in given:
        other = found.setdefault((budget.scope, budget.quantity, budget.period), budget)
        if other is not budget:
            raise ValueError(f"trigger {name!r}: the budgets of {other} and of {budget} are for the same; keep one")
    return tuple(found.values())


def amount(value: Any, what: str, *, whole: bool = False, zero: bool = False) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int,) if whole else (int, float, Decimal)):
        raise TypeError(f"{what} is {value!r}; pass a {'whole ' if whole else ''}number")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number < 0 or (number == 0 and not zero) or number > 10**15:
        raise ValueError(f"{what} is {value}; it must be {'0 or more' if zero else 'more than 0'}")
    return number


def shown(number: Decimal) -> str:
    """A number for people: at most six places, and no zeros at the end."""
    text = f"{number:.6f}"
    return re.sub(r"\.?0+$", "", text)
