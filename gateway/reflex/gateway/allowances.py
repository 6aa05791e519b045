"""What keys with limits may still publish: portions that this gateway has taken, handed out without a query each.

    request ──► a portion that is held ──► stored
                     │ used up
                     ├──► known to be closed ──► refused until it opens, without a query
                     └──► taken together with others ──► PostgreSQL

Of the day's quota all gateways together never hand out more than there is. Of the rate each may hold a tenth of a
second's, so that much more may come at once. What a gateway holds when it is killed is lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol, TypeVar

import structlog

from reflex.core.errors import ReflexError, Saturated
from reflex.core.limits import (
    BatchOverQuota,
    LimitReached,
    Limits,
    Portion,
    QuotaReached,
    RateReached,
    return_allowance,
    take_allowance,
)
from reflex.gateway.connections import Connection

__all__ = ["Allowances", "Spent"]

# Keys whose allowances are held at one time. Those of the one that came longest ago are lost then.
MOST_HELD: Final = 10_000
# Requests of one key that wait for a portion.
MOST_WAITING: Final = 1000
# How much of a second's rate is taken at once at most.
SHARE: Final = 0.1
# For how long a portion is enough, about, if the rate lets it.
LASTS_S: Final = 1.0
# A quota that is used up may be opened again by a gateway that stops and gives back: look now and then.
QUOTA_KNOWN_S: Final = 5.0
# Two answers of the database that disagree by more about the end of the day speak of two days.
ANOTHER_DAY_S: Final = 3600.0
ROUNDING: Final = 1e-6

log: structlog.stdlib.BoundLogger = structlog.get_logger()
Result = TypeVar("Result")


class Query(Protocol):
    """Runs something with a connection, in a bounded time."""

    def __call__(self, query: Callable[[Connection], Awaitable[Result]], /) -> Awaitable[Result]: ...


class Spent:
    """Events that were counted against the limits of a key."""

    __slots__ = ("_allowance", "_day_ends_at", "_events")

    def __init__(self, allowance: "Allowance", events: int, day_ends_at: float) -> None:
        self._allowance = allowance
        self._events = events
        self._day_ends_at = day_ends_at

    def give_back(self) -> None:
        """They were not stored."""
        self._allowance.put_back(self._events, day_ends_at=self._day_ends_at)


class Allowances:
    """Those of all keys that this gateway has seen."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._held: dict[str, Allowance] = {}

    async def spend(self, key_id: str, limits: Limits, events: int) -> Spent:
        """Count events that are about to be stored.

        Raises:
            LimitReached: With when it opens.
            BatchOverQuota: There are more of them than the key may publish in a day.
            Saturated: Too many requests of the key wait.
            DatabaseUnavailable: No portion is left here, and none can be had.
        """
        if limits.quota is not None and events > limits.quota:
            raise BatchOverQuota(
                f"a batch of {events} events; the API key {key_id} may publish {limits.quota} a day; nothing was stored"
            )
        allowance = self._held.get(key_id)
        if allowance is None:
            while len(self._held) >= MOST_HELD:
                del self._held[next(iter(self._held))]
            allowance = self._held[key_id] = Allowance(key_id, limits, self._query)
        return await allowance.spend(events)

    async def give_back(self) -> None:
        """What was not handed out, when the gateway stops. What cannot be given back is lost."""
        left = {key_id: rest for key_id, allowance in self._held.items() if any(rest := allowance.take_rest())}
        if not left:
            return
        try:
            await self._query(lambda conn: return_allowance(conn, left))
        except ReflexError as error:
            log.info("what API keys may still publish could not be given back", reason=str(error))
        except Exception:
            log.exception("what API keys may still publish could not be given back")


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for a portion."""

    events: int
    spent: "asyncio.Future[Spent]"
    is_served: bool = False

    def fail(self, error: Exception) -> None:
        if not self.spent.done():
            self.spent.set_exception(error)


class Allowance:
    """That of one key. The moments are those of the event loop's clock.

    A portion is handed out at once, to all who wait for it, and who comes later does not overtake them: the events of a
    WebSocket stay in order.
    """

    def __init__(self, key_id: str, limits: Limits, query: Query) -> None:
        self._key_id = key_id
        self._limits = limits
        self._query = query
        # held: events of the rate, and of the quota of the day that ends then
        self._rated = 0.0
        self._counted = 0
        self._day_ends_at = -inf
        # the most that may be left for all gateways: in the bucket at that moment, of the quota until that one
        self._bucket = inf
        self._bucket_at = 0.0
        self._quota_left = 0
        self._quota_known_until = -inf
        self._portion = 1.0
        self._took_at = -inf
        self._waiting: deque[Waiter] = deque()
        self._going_on = 0  # have been served, and have not heard so
        self._serving: asyncio.Task[None] | None = None

    async def spend(self, events: int) -> Spent:
        """See `Allowances.spend`."""
        if not self._waiting and not self._going_on:
            if self._covers(events):
                return self._hand_out(events)
            self._check_open(events)
        if len(self._waiting) >= MOST_WAITING:
            raise Saturated(f"the queue of requests with the API key {self._key_id}")
        waiter = Waiter(events, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        try:
            return await waiter.spent
        except asyncio.CancelledError:
            if waiter.is_served:  # and given up before it heard so
                waiter.spent.result().give_back()
            raise
        finally:
            self._going_on -= waiter.is_served

    def put_back(self, events: int, *, day_ends_at: float) -> None:
        """Events that were handed out on the day that ends then were not stored."""
        if self._limits.rate is not None:
            self._rated += events
        if self._limits.quota is not None and self._day_ends_at == day_ends_at:
            self._counted += events

    def take_rest(self) -> tuple[float, int]:
        """What is held, of the rate and of the quota of today; nothing is, afterwards."""
        self._covers(0)
        rest = self._rated, self._counted
        self._rated, self._counted = 0.0, 0
        return rest

    # What is held

    def _covers(self, events: int) -> bool:
        if self._day_ends_at <= now():
            self._counted = 0
        return self._needed(events) == (0, 0)

    def _needed(self, events: int) -> tuple[float, int]:
        rated = 0.0 if self._limits.rate is None else max(events - self._rated, 0)
        return rated, 0 if self._limits.quota is None else max(events - self._counted, 0)

    def _hand_out(self, events: int) -> Spent:
        if self._limits.rate is not None:
            self._rated -= events
        if self._limits.quota is not None:
            self._counted -= events
        return Spent(self, events, self._day_ends_at)

    # What is known of the rest

    def _check_open(self, events: int) -> None:
        """Raises LimitReached if it is known that what is needed cannot be had now."""
        moment = now()
        rated, counted = self._needed(events)
        if moment < self._quota_known_until and counted > self._quota_left:
            raise self._quota_reached(events, opens_in_s=self._day_ends_at - moment)
        if self._limits.rate is not None:
            needed = min(rated, self._limits.burst)
            there = self._bucket + self._limits.rate * (moment - self._bucket_at)
            if there < needed - ROUNDING:
                raise self._rate_reached(opens_in_s=(needed - there) / self._limits.rate)

    def _rate_reached(self, *, opens_in_s: float) -> LimitReached:
        said = f"the API key {self._key_id} may publish {Limits(rate=self._limits.rate)} (events a second)"
        return RateReached(said, opens_in_s=opens_in_s)

    def _quota_reached(self, events: int, *, opens_in_s: float) -> LimitReached:
        said = (
            f"the API key {self._key_id} may publish {self._limits.quota} events a day, of which fewer than {events} "
            "are left until 00:00 UTC"
        )
        return QuotaReached(said, opens_in_s=opens_in_s)

    # Taking more

    async def _serve(self) -> None:
        """Until nobody waits. It goes on when a request is given up: what was taken is for the next one then."""
        try:
            while self._waiting:
                await self._serve_first(self._waiting[0])
                self._waiting.popleft()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            while self._waiting:
                self._waiting.popleft().fail(error)

    async def _serve_first(self, waiter: "Waiter") -> None:
        """Whoever is refused has his own reason; raises what everybody who waits is to hear."""
        if waiter.spent.done():
            return  # given up
        events = waiter.events
        try:
            if not self._covers(events):
                self._check_open(events)
                await self._take(*self._needed(events))
            if not self._covers(events):
                self._check_open(events)
                # It was there and is not any more, as at midnight.
                raise self._rate_reached(opens_in_s=1)
        except LimitReached as refusal:
            waiter.fail(refusal)
            return
        if not waiter.spent.done():
            waiter.spent.set_result(self._hand_out(events))
            waiter.is_served = True
            self._going_on += 1

    async def _take(self, rated: float, counted: int) -> None:
        asked_at = now()
        self._adapt(asked_at)
        wanted = max(self._portion, sum(waiter.events for waiter in self._waiting) - self._rated)

        async def take(conn: Connection) -> Portion:
            return await take_allowance(conn, self._key_id, rated=rated, counted=counted, portion=wanted)

        self._learn(await self._query(take), asked_at)

    def _adapt(self, moment: float) -> None:
        """As much at once as is used in a second, about: all wait for the next portion."""
        since = moment - self._took_at
        self._took_at = moment
        if since < LASTS_S / 2:
            self._portion *= 2
        elif since > LASTS_S * 2:
            self._portion /= 2
        self._portion = max(1.0, min(self._portion, (self._limits.rate or 0) * SHARE))

    def _learn(self, portion: Portion, asked_at: float) -> None:
        day_ends_at = asked_at + portion.day_ends_s
        if day_ends_at > self._day_ends_at + ANOTHER_DAY_S:
            self._counted = 0
            self._day_ends_at = day_ends_at
        self._rated += portion.rated
        self._counted += portion.counted
        if self._limits.rate is not None:
            self._bucket, self._bucket_at = portion.available - portion.rated, asked_at
        if portion.quota_left is not None:
            self._quota_left = portion.quota_left - portion.counted
            self._quota_known_until = min(asked_at + QUOTA_KNOWN_S, self._day_ends_at)


def now() -> float:
    return asyncio.get_running_loop().time()
