"""Filters: pure predicates on an event that know which event types they could match.

    type_filter("order.created") & keyword_filter("amount", lambda x: x > 100)

The types become rows that the ingest statement joins with, so most events that a filter does not want never become
deliveries; the rest of the predicate runs in the worker. What depends on other events (`rate_limit_filter`,
`dedupe_filter`) is asked last, of the database.
"""

import inspect
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from reflex.agent.gates import Gate, dedupe_gate, rate_limit_gate
from reflex.agent.paths import MISSING, By, field_of
from reflex.core.errors import ReflexError
from reflex.core.events import SYSTEM_PREFIX, Event, candidate_patterns, check_type_pattern

__all__ = [
    "Filter",
    "FilterError",
    "any_event",
    "dedupe_filter",
    "event_filter",
    "key_filter",
    "keyword_filter",
    "rate_limit_filter",
    "source_filter",
    "type_filter",
]

# Any, so that the parameter of a lambda has a type in the author's editor.
Predicate: TypeAlias = Callable[[Any], object]
JsonValue: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None

# How tightly the text of a filter binds, to know where a composed one needs brackets.
ATOM, AND, OR = 2, 1, 0


class FilterError(ReflexError):
    """A filter's predicate raised. That is a failed attempt: taking it for "no match" would lose the event silently."""

    code = "filter"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Filter:
    """A predicate on an event. Compose with `&`, `|` and `~`; call it with an event.

    `patterns` are the event types that it could match; none at all means that it can match nothing. Types that Reflex
    writes itself (`reflex.…`) match only if a pattern names them, whatever the predicate says. `gates` are what it asks
    of other events, once its predicate holds: called with an event, it knows nothing of them.
    """

    patterns: frozenset[str]
    test: Callable[[Event], bool]
    text: str
    binding: int = field(default=ATOM)
    inverse: "Filter | None" = field(default=None)
    gates: tuple[Gate, ...] = ()

    def __call__(self, event: Event) -> bool:
        """Whether the event matches.

        Raises:
            FilterError: A predicate raised.
        """
        return not self.patterns.isdisjoint(candidate_patterns(event.type)) and self.test(event)

    def __and__(self, other: "Filter") -> "Filter":
        if not is_filter(other):
            return NotImplemented
        first, second = self.test, other.test
        return Filter(
            simplified(meet for a in self.patterns for b in other.patterns if (meet := common_pattern(a, b))),
            lambda event: first(event) and second(event),
            f"{self.bracketed(AND)} & {other.bracketed(AND)}",
            AND,
            gates=self.gates + other.gates,
        )

    def __or__(self, other: "Filter") -> "Filter":
        if not is_filter(other):
            return NotImplemented
        self.refuse_gates("|")
        other.refuse_gates("|")
        first, second = self.test, other.test
        return Filter(
            simplified(self.patterns | other.patterns),
            lambda event: first(event) or second(event),
            f"{self.bracketed(OR)} | {other.bracketed(OR)}",
            OR,
        )

    def __invert__(self) -> "Filter":
        if self.inverse is not None:
            return self.inverse
        self.refuse_gates("~")
        test = self.test
        # What is not of one type can be of any other: `*`. Only the inverse of everything is known to be nothing.
        patterns: frozenset[str] = frozenset() if self.test is always else frozenset({"*"})
        return Filter(patterns, lambda event: not test(event), f"~{self.bracketed(ATOM)}", ATOM, inverse=self)

    def __bool__(self) -> bool:
        # `a and b` would silently be just b.
        raise TypeError(f"{self!r}: compose filters with &, | and ~, not with and, or and not")

    def __repr__(self) -> str:
        return self.text

    def bracketed(self, binding: int) -> str:
        return self.text if self.binding >= binding else f"({self.text})"

    def refuse_gates(self, operator: str) -> None:
        """Raises TypeError if it asks of other events."""
        if self.gates:
            raise TypeError(
                f"{self!r} cannot be composed with {operator}: whether it matches depends on what it has let through "
                "before; compose it with & only, and put | and ~ in brackets beside it"
            )


def type_filter(*types: str) -> Filter:
    """Events of these types. `order.*` is every type below `order`, `*` every type.

    Raises:
        TypeError: One of them is no type and no pattern.
    """
    if not types:
        raise TypeError("type_filter() needs a type, as in type_filter('order.created')")
    patterns = frozenset(check_type_pattern(checked_str("type_filter", type)) for type in types)
    return Filter(
        simplified(patterns),
        lambda event: not patterns.isdisjoint(candidate_patterns(event.type)),
        f"type_filter({', '.join(map(repr, types))})",
    )


def keyword_filter(field: str, value: Predicate | JsonValue) -> Filter:
    """Events with this field in the payload; one without it does not match.

    Args:
        field: Its name. Dots lead into objects and, by number, into arrays: `customer.tier`, `lines.0.sku`.
        value: What the field equals, or a function of it that says whether it matches.
    """
    checked_str("keyword_filter", field)
    what = f"keyword_filter({field!r}, {described(value)})"
    test = checked_predicate(what, value) if callable(value) else equal_to(value)

    def matches(event: Event) -> bool:
        actual = field_of(event.payload, field)
        return actual is not MISSING and judged(test, actual, what)

    return Filter(frozenset({"*"}), matches, what)


def source_filter(*sources: str) -> Filter:
    """Events from these sources. `ws:*` is every source that begins with `ws:`."""
    if not sources:
        raise TypeError("source_filter() needs a source, as in source_filter('http')")
    exact = frozenset(checked_str("source_filter", source) for source in sources if not source.endswith("*"))
    prefixes = tuple(source[:-1] for source in sources if source.endswith("*"))
    return Filter(
        frozenset({"*"}),
        lambda event: event.source in exact or (bool(prefixes) and event.source.startswith(prefixes)),
        f"source_filter({', '.join(map(repr, sources))})",
    )


def key_filter(value: str | Callable[[str], object]) -> Filter:
    """Events about this key, or about a key that the function accepts; an event without a key does not match."""
    what = f"key_filter({described(value)})"
    test = checked_predicate(what, value) if callable(value) else equal_to(checked_str("key_filter", value))
    return Filter(frozenset({"*"}), lambda event: event.key is not None and judged(test, event.key, what), what)


def event_filter(predicate: Callable[[Event], object]) -> Filter:
    """Events that a function of the whole event accepts. It must be pure: it may run more than once."""
    what = f"event_filter({described(predicate)})"
    test = checked_predicate(what, predicate)
    return Filter(frozenset({"*"}), lambda event: judged(test, event, what), what)


def any_event() -> Filter:
    """Every event, except those that Reflex writes itself: name them, as in `type_filter("reflex.dead_letter")`."""
    return Filter(frozenset({"*"}), always, "any_event()")


def rate_limit_filter(limit: int, *, per: timedelta, by: By = "key") -> Filter:
    """At most so many events of one subject in any time of this length; more are skipped. Compose it with `&`.

    Only events that match all of the rest count, and only those that are let through, by when they are: the clock is
    the database's, and all workers share it. It is decided once for each delivery, whatever becomes of its run.

    Args:
        limit: At most 10,000.
        by: What makes events one subject: `"key"`, `"source"`, a path such as `"payload.user"`, several of these, or
            None: all events. Those that have nothing there are one subject, too.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """
    gate = rate_limit_gate(limit, per, by)
    return Filter(frozenset({"*"}), always, f"rate_limit_filter({limit}, per={per}, by={by!r})", gates=(gate,))


def dedupe_filter(*, within: timedelta, by: By = "key") -> Filter:
    """Of events that are the same, one in any time of this length; more are skipped. As `rate_limit_filter`, but an
    event that has nothing at one of the paths is the same as no other, and is let through."""
    gate = dedupe_gate(within, by)
    return Filter(frozenset({"*"}), always, f"dedupe_filter(within={within}, by={by!r})", gates=(gate,))


def always(event: Event) -> bool:
    return True


def is_filter(other: object) -> bool:
    return isinstance(other, Filter)


def common_pattern(one: str, other: str) -> str | None:
    """The pattern of the types that both patterns mean; None if there are none. Of two patterns that share a type,
    one always contains the other."""
    if one == other or one == "*":
        return other
    if other == "*":
        return one
    if one.endswith(".*") and other.startswith(one[:-1]):
        return other
    if other.endswith(".*") and one.startswith(other[:-1]):
        return one
    return None


def simplified(patterns: Iterable[str]) -> frozenset[str]:
    """Without the patterns that another one contains. `*` does not contain Reflex's own types."""
    every = frozenset(patterns)
    return frozenset(
        pattern
        for pattern in every
        if not any(
            other != pattern
            and common_pattern(other, pattern) == pattern
            and not (other == "*" and pattern.startswith(SYSTEM_PREFIX))
            for other in every
        )
    )


def equal_to(value: object) -> Predicate:
    # In JSON, true is not 1; in Python it is.
    return lambda actual: actual == value and isinstance(actual, bool) == isinstance(value, bool)


def judged(test: Predicate, value: Any, what: str) -> bool:
    """The predicate's answer.

    Raises:
        FilterError: It raised; the sentence names the filter and shows the value.
    """
    try:
        return bool(test(value))
    except Exception as error:
        raise FilterError(f"{what} raised {type(error).__name__} for {reprlib.repr(value)}: {error}") from error


def checked_predicate(what: str, predicate: Predicate) -> Predicate:
    # A coroutine is true, whatever it would have answered.
    if inspect.iscoroutinefunction(predicate) or inspect.iscoroutinefunction(getattr(predicate, "__call__", None)):  # noqa: B004
        raise TypeError(f"{what}: a predicate is a plain function; work that has to wait belongs into the agent")
    return predicate


def checked_str(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{what}() takes non-empty strings, not {value!r}")
    return value


def described(value: object) -> str:
    """A value or a function as it should read in logs: where a lambda stands, not its address."""
    if not callable(value):
        return reprlib.repr(value)
    name: str = getattr(value, "__qualname__", type(value).__qualname__)
    code = getattr(value, "__code__", None)
    if code is not None and name.endswith("<lambda>"):
        return f"<lambda in {code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}>"
    return name
