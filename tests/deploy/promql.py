"""As much of PromQL as the alerts and the dashboard use: read strictly, checked against the table, and evaluated.

Of a range only its ends are known: `rate` and `increase` go from one scrape to the next.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from reflex.core.metrics import FAMILIES, Kind

__all__ = ["Sample", "Scrapes", "evaluate", "labels_of", "metrics_in"]

TOKEN: Final = re.compile(
    r'\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-z_:][a-z0-9_:]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]+\])'
    r"|(?P<sign>==|=~|!=|>=|<=|[(){},=<>*/]))",
    re.IGNORECASE,
)
RANGE: Final = re.compile(r"\[(\d+[smhd]|\$__rate_interval)\]")
FROM_PROMETHEUS: Final = {"up": ("job", "instance")}
OF_THE_TARGET: Final = ("job", "instance")

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Labels
    value: float


@dataclass(frozen=True)
class Scrapes:
    """One moment, and an earlier one so many seconds before."""

    now: Sequence[Sample]
    before: Sequence[Sample] = ()
    seconds: float = 60.0


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, str, str], ...]
    is_range: bool = False

    def find(self, samples: Iterable[Sample]) -> Vector:
        return {each.labels: each.value for each in samples if each.name == self.name and self.takes(dict(each.labels))}

    def takes(self, labels: Mapping[str, str]) -> bool:
        return all(
            bool(re.fullmatch(value, labels.get(name, ""))) if sign == "=~" else labels.get(name, "") == value
            for name, sign, value in self.matchers
        )


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple["Node", ...]
    by: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Binary:
    sign: str
    left: "Node"
    right: "Node"
    on: tuple[str, ...] | None = None


Node = Selector | Call | Binary | float


class Reader:
    """Recursive descent. Fails with what it does not know."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            match = TOKEN.match(text, at)
            assert match, f"unreadable from {text[at:]!r}"
            self.tokens.append((match.lastgroup or "", match.group(match.lastgroup or "")))
            at = match.end()
        self.tokens.append(("end", ""))

    def next(self) -> str:
        return self.tokens[0][1]

    def take(self, *expected: str) -> str:
        kind, value = self.tokens.pop(0)
        assert not expected or value in expected or kind in expected, f"{value!r} instead of {expected}"
        return value

    def whole(self) -> Node:
        node = self.logical()
        self.take("end")
        return node

    def logical(self) -> Node:
        node = self.comparison()
        while self.next() == "and":
            self.take()
            self.take("on")
            on = self.names()
            node = Binary("and", node, self.comparison(), on)
        return node

    def comparison(self) -> Node:
        node = self.product()
        while self.next() in (">", "<", "=="):
            node = Binary(self.take(), node, self.product())
        return node

    def product(self) -> Node:
        node = self.atom()
        while self.next() in ("*", "/"):
            node = Binary(self.take(), node, self.atom())
        return node

    def atom(self) -> Node:
        if self.tokens[0][0] == "number":
            return float(self.take())
        if self.next() == "(":
            self.take("(")
            node = self.logical()
            self.take(")")
            return node
        name = self.take("name")
        if name in ("sum", "max"):
            by: tuple[str, ...] = ()
            if self.next() == "by":
                self.take()
                by = self.names()
            return Call(name, self.arguments(), by)
        if name in ("rate", "increase", "histogram_quantile"):
            return Call(name, self.arguments())
        return self.selector(name)

    def names(self) -> tuple[str, ...]:
        self.take("(")
        found: list[str] = []
        while self.next() != ")":
            found.append(self.take("name"))
            if self.next() == ",":
                self.take()
        self.take(")")
        return tuple(found)

    def arguments(self) -> tuple[Node, ...]:
        self.take("(")
        found = [self.logical()]
        while self.next() == ",":
            self.take()
            found.append(self.logical())
        self.take(")")
        return tuple(found)

    def selector(self, name: str) -> Selector:
        matchers: list[tuple[str, str, str]] = []
        if self.next() == "{":
            self.take()
            while self.next() != "}":
                label, sign, text = self.take("name"), self.take("=", "=~"), self.take("text")
                matchers.append((label, sign, text[1:-1]))
                if self.next() == ",":
                    self.take()
            self.take("}")
        is_range = self.tokens[0][0] == "range"
        if is_range:
            assert RANGE.fullmatch(range := self.take()), range
        return Selector(name, tuple(matchers), is_range)


def read(text: str) -> Node:
    return Reader(text).whole()


def metrics_in(text: str) -> set[str]:
    """The metrics that an expression names."""

    def walk(node: Node) -> set[str]:
        match node:
            case Selector(name):
                return {name}
            case Call(_, arguments):
                return set[str]().union(*map(walk, arguments))
            case Binary(_, left, right):
                return walk(left) | walk(right)
            case _:
                return set()

    return walk(read(text))


def labels_of(text: str) -> set[str]:
    """The labels of its result. Fails for a metric or a label that is not in the table, a rate of what does not only
    grow, and a sum over gateways of what is the same in all of them."""

    def walk(node: Node, *, summed: bool = False) -> set[str]:
        match node:
            case Selector(name, matchers, is_range):
                known = series_of(name)
                assert {label for label, *_ in matchers} <= known, f"{name} has no such label: {matchers}"
                family = FAMILIES.get(re.sub(r"_(bucket|sum|count)$", "", name)) or FAMILIES.get(name)
                assert not is_range or (family and family.kind is not Kind.GAUGE), f"a range of {name}"
                assert not (summed and family and family.origin == "database"), f"{name} summed over gateways"
                return known
            case Call(name, arguments, by):
                found = set[str]().union(*(walk(each, summed=name == "sum") for each in arguments))
                if name in ("rate", "increase"):
                    assert isinstance(arguments[0], Selector)
                    assert arguments[0].is_range
                if name == "histogram_quantile":
                    assert "le" in found
                    return found - {"le"}
                if by is None:
                    return found
                assert set(by) <= found, f"by {by}, of {found}"
                return set(by)
            case Binary(sign, left, right, on):
                one, other = walk(left), walk(right)
                if sign == "and":
                    assert on is not None
                    assert set(on) <= one & other
                elif not isinstance(right, float):
                    assert one == other
                return one
            case _:
                return set()

    return walk(read(text))


def series_of(name: str) -> set[str]:
    if name in FROM_PROMETHEUS:
        return set(FROM_PROMETHEUS[name])
    family = FAMILIES.get(name)
    if family is not None:
        assert family.kind is not Kind.HISTOGRAM, f"{name} has no series of that name"
        return {*family.labels, *OF_THE_TARGET}
    base, _, part = name.rpartition("_")
    assert base in FAMILIES, f"there is no metric {name}"
    assert FAMILIES[base].kind is Kind.HISTOGRAM
    assert part in ("bucket", "sum", "count")
    return {*FAMILIES[base].labels, *OF_THE_TARGET, *(["le"] if part == "bucket" else [])}


def evaluate(text: str, scrapes: Scrapes) -> Vector:
    """What an expression gives: for an alert, what it fires for."""
    found = value_of(read(text), scrapes)
    assert isinstance(found, dict)
    return found


def value_of(node: Node, scrapes: Scrapes) -> Vector | float:
    match node:
        case Selector():
            return node.find(scrapes.now)
        case Call(name, arguments, by):
            return called(name, arguments, by, scrapes)
        case Binary(sign, left, right, on):
            return combined(sign, value_of(left, scrapes), value_of(right, scrapes), on)
        case _:
            return node


def called(name: str, arguments: Sequence[Node], by: tuple[str, ...] | None, scrapes: Scrapes) -> Vector:
    if name in ("rate", "increase"):
        (selector,) = arguments
        assert isinstance(selector, Selector)
        before = selector.find(scrapes.before)
        grown = {key: value - before[key] for key, value in selector.find(scrapes.now).items() if key in before}
        return grown if name == "increase" else {key: value / scrapes.seconds for key, value in grown.items()}
    vector = value_of(arguments[-1], scrapes)
    assert isinstance(vector, dict)
    if name == "histogram_quantile":
        quantile = value_of(arguments[0], scrapes)
        assert isinstance(quantile, float)
        series: dict[Labels, list[tuple[float, float]]] = {}
        for key, value in vector.items():
            labels = dict(key)
            bound = float(labels.pop("le"))
            series.setdefault(frozenset(labels.items()), []).append((bound, value))
        return {key: quantile_of(quantile, sorted(buckets)) for key, buckets in series.items()}
    groups: dict[Labels, list[float]] = {}
    for key, value in vector.items():
        groups.setdefault(frozenset(pair for pair in key if pair[0] in (by or ())), []).append(value)
    return {key: (sum if name == "sum" else max)(values) for key, values in groups.items()}


def quantile_of(quantile: float, buckets: Sequence[tuple[float, float]]) -> float:
    rank = quantile * buckets[-1][1]
    for (low, under), (high, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto >= rank and upto > under:
            return low if math.isinf(high) else low + (high - low) * (rank - under) / (upto - under)
    return math.nan


def combined(sign: str, left: Vector | float, right: Vector | float, on: tuple[str, ...] | None) -> Vector:
    assert isinstance(left, dict)
    if sign == "and":
        assert isinstance(right, dict)
        there = {frozenset(pair for pair in key if pair[0] in (on or ())) for key in right}
        return {k: v for k, v in left.items() if frozenset(pair for pair in k if pair[0] in (on or ())) in there}
    pairs: dict[Labels, tuple[float, float]] = {}
    for key, value in left.items():
        if not isinstance(right, dict):
            pairs[key] = value, right
        elif key in right:
            pairs[key] = value, right[key]
    match sign:
        case "*":
            return {key: one * other for key, (one, other) in pairs.items()}
        case "/":
            return {key: one / other if other else math.nan for key, (one, other) in pairs.items()}
        case ">":
            return {key: one for key, (one, other) in pairs.items() if one > other}
        case "<":
            return {key: one for key, (one, other) in pairs.items() if one < other}
        case _:
            return {key: one for key, (one, other) in pairs.items() if one == other}
