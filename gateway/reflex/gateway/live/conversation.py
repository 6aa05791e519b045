"""One WebSocket connection: a reader that does what the client asks, and a writer that sends what waits for it.

    frames in ──► reader ──► publish ──► group commit ──┐
                     │                                  ▼
                     └──► subscribe ──► hub ──────► outbox ──► writer ──► frames out

Whatever ends the conversation closes the outbox; the writer then says goodbye.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple

import orjson
import structlog
from starlette.types import Receive, Send

from reflex.core.cursors import Cursor
from reflex.core.dead_letter_event import DEAD_LETTER_TYPE
from reflex.core.errors import ReflexError
from reflex.core.events import NewEvent
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent, tail_log
from reflex.core.replies import REPLY_TYPE
from reflex.core.settings import Settings
from reflex.gateway.access import KEY_ENDED, OPEN, Grant
from reflex.gateway.live.closing import OUTBOX_REASONS, CloseCode
from reflex.gateway.live.filters import read_filter
from reflex.gateway.live.hub import Hub
from reflex.gateway.live.outbox import SLOW, Outbox, OutboxClosed, portions
from reflex.gateway.live.progress_feed import ProgressFeed
from reflex.gateway.live.protocol import (
    PROTOCOL,
    SCOPES,
    FrameRejected,
    Line,
    Operation,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
    frame,
    read_frame,
)
from reflex.gateway.live.sessions import Session, Sessions
from reflex.gateway.live.stream import FRAMES, Receipts
from reflex.gateway.live.subscription import Subscription
from reflex.gateway.problems import RequestRefused, describe_any, describe_error
from reflex.gateway.publishing import Publisher

__all__ = ["Conversation", "Opening", "Services"]

LINE_TYPE: Final = "ws.message"
ERRORS_IN_A_ROW: Final = 20
# How long the frames that wait may take once the conversation ends, and then the goodbye.
ENDING_S: Final = 2.0
# How long events that are being stored may take once the gateway stops.
COMMITS_S: Final = 5.0
# A session that gets no replies moves on in the log as seldom as this.
QUIET_S: Final = 300.0
GONE: Final = "gone"

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """What all conversations of a gateway share."""

    settings: Settings
    publisher: Publisher
    hub: Hub
    sessions: Sessions
    progress: ProgressFeed


class Opening(NamedTuple):
    """How a client opened: its session, where its replies go on (None: from now on), whether it has published before,
    what its lines are about, whether it misses no reply, and what it may do."""

    session: Session
    after: Cursor | None = None
    is_known: bool = False
    key: str | None = None
    resumed: bool = False
    grant: Grant = OPEN


class Conversation:
    """See above. `run` is called once, in the task of the connection."""

    def __init__(
        self, services: Services, opening: Opening, *, receive: Receive, send: Send, receipts: Receipts
    ) -> None:
        settings = services.settings
        self._services = services
        self._session = opening.session
        self._source = f"ws:{opening.session.id}"
        self._key = opening.key or opening.session.id
        self._is_known = opening.is_known
        self._resumed, self._grant = opening.resumed, opening.grant
        self._receive = receive
        self._send = send
        self._receipts = receipts
        self._outbox = Outbox(
            max_frames=settings.live_buffer_events, max_chars=settings.live_buffer_bytes, on_close=self._on_close
        )
        answers = LogFilter(types=(DEAD_LETTER_TYPE, REPLY_TYPE), reply_to=opening.session.id)
        self._replies = Subscription(answers, self._outbox, render=answer_frame, cursor=opening.after)
        self._subscriptions: dict[str, tuple[Subscription, AsyncExitStack]] = {}
        self._room = asyncio.Semaphore(settings.ws_max_in_flight)
        self._publishing: set[asyncio.Task[None]] = set()
        self._late: list[str] = []
        self._errors = 0
        self._closing: tuple[CloseCode, str] | None = None
        self._writing_limit: asyncio.Timeout | None = None
        self._is_writing = False
        self._heard_at = self._moved_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Until one side ends it.

        Raises:
            CursorRejected: Replies cannot go on where the client said.
            DatabaseUnavailable, Saturated: The log cannot be read, or not now.
        """
        async with AsyncExitStack() as stack:
            hub = self._services.hub
            await stack.enter_async_context(hub.subscription(self._replies))
            stack.enter_context(self._grant.lasting(lambda: self._outbox.close(KEY_ENDED)))
            stack.enter_context(self._services.sessions.watched(self._session.id, self._position))
            welcome = frame(
                "welcome",
                connection=self._session.id,
                session=self._session.token,
                resumed=self._resumed,
                cursor=str(self._replies.cursor),
                protocol=PROTOCOL,
            )
            self._outbox.offer(welcome)
            idle = self._watch_idleness()
            try:
                async with self._reading():
                    await self._write()
                await self._say_goodbye()
            finally:
                idle()
                for _, subscribed in list(self._subscriptions.values()):
                    await subscribed.aclose()

    # Reading

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[None]:
        """Meanwhile the reader runs. Afterwards nothing that it began goes on: a subscription that was being entered is
        left again."""
        reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            await self._converse()
        except OutboxClosed:
            pass
        except Exception:
            log.exception("a conversation broke", connection=self._session.id)
            self._end(CloseCode.FAILED, "this is a defect of the gateway; its log has the traceback")

    async def _converse(self) -> None:
        max_nesting = self._services.settings.max_nesting
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._outbox.close(GONE)
                return
            self._heard_at = asyncio.get_running_loop().time()
            text: str | None = message.get("text")
            if text is None:
                self._end(CloseCode.BINARY, "send text frames")
                return
            try:
                operation = read_frame(text, max_nesting=max_nesting)
            except FrameRejected as error:
                await self._outbox.put(frame("error", error.id, problem=describe_error(error)))
                self._errors += 1
                if self._errors >= ERRORS_IN_A_ROW:
                    self._end(CloseCode.TOO_MANY_ERRORS, f"{ERRORS_IN_A_ROW} frames in a row made no sense")
                    return
                continue
            if operation is not None:
                self._errors = 0
                await self._do(operation)

    async def _do(self, operation: Operation) -> None:
        id = None if isinstance(operation, Line) else operation.id
        try:
            self._grant.check(SCOPES.get(type(operation), ()))
            match operation:
                case Line(content):
                    about = {"key": self._key, "correlation_id": self._key}
                    await self._publish(None, {"type": LINE_TYPE, "payload": {"content": content}, **about}, at="")
                case Publish(id, event):
                    await self._publish(id, event, at="/event")
                case Subscribe():
                    await self._subscribe(operation)
                case Unsubscribe(id):
                    await self._unsubscribe(id)
                case Ping():
                    await self._outbox.put(frame("pong", id, cursor=str(self._services.hub.position(self._replies))))
        except (ReflexError, RequestRefused) as error:
            if isinstance(operation, Line | Publish):
                self._services.publisher.refused(error.code)
            await self._outbox.put(frame("refused", id, problem=describe_any(error)))

    # Publishing

    async def _publish(self, id: str | None, data: object, *, at: str) -> None:
        """Check the event and hand it on; waits while too many are on their way to the disk."""
        event = self._services.publisher.check(data, self._grant, at=at, source=self._source)
        await self._room.acquire()
        try:
            if not self._is_known:
                assert self._replies.sent is not None
                await self._services.sessions.keep(self._session.id, self._replies.sent)
                self._is_known = True
        except BaseException:
            self._room.release()
            raise
        task = asyncio.create_task(self._store(id, event._replace(reply_to=self._session.id)))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _store(self, id: str | None, event: NewEvent) -> None:
        try:
            stored = (await self._services.publisher.store([event], grant=self._grant))[event.event_id]
            answer = frame("published", id, event_id=str(stored), duplicate=stored != event.event_id)
        except ReflexError as error:
            self._services.publisher.refused(error.code)
            answer = frame("refused", id, problem=describe_any(error))
        except Exception as error:
            log.exception("an event was not stored", connection=self._session.id)
            answer = frame("refused", id, problem=describe_any(error))
        try:
            await self._outbox.put(answer)
        except OutboxClosed:
            self._late.append(answer)
        finally:
            self._room.release()

    # Subscribing

    async def _subscribe(self, operation: Subscribe) -> None:
        most = self._services.settings.ws_max_subscriptions
        if operation.id in self._subscriptions:
            detail = f"there is a subscription {operation.id[:60]!r} already; unsubscribe first, or give it another id"
            raise RequestRefused(HTTPStatus.CONFLICT, "subscription_exists", detail)
        if len(self._subscriptions) >= most:
            detail = f"this connection has {most} subscriptions (REFLEX_WS_MAX_SUBSCRIPTIONS); name more types in one"
            raise RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, "too_many_subscriptions", detail)
        asked = read_filter(
            types=operation.types, sources=operation.sources, key=operation.key, correlation_id=operation.correlation_id
        )
        filter = self._grant.narrowed(asked)
        cursor = None if operation.after is None else Cursor.parse(operation.after, field="/after")
        tail = operation.tail
        if tail is not None:
            cursor = await self._services.hub.read_in_turn(lambda conn: tail_log(conn, tail, filter=filter))
        head = b'{"op":"event","subscription":%b,"cursor":"' % orjson.dumps(operation.id)
        render = partial(event_frame, head.decode())
        subscription = Subscription(filter, self._outbox, render=render, cursor=cursor)
        async with AsyncExitStack() as entered:
            if "progress" in operation.include:
                feed = self._services.progress
                await entered.enter_async_context(feed.watching(operation.id, filter, self._outbox))
            await entered.enter_async_context(self._services.hub.subscription(subscription, field="/after"))
            stack = entered.pop_all()
        self._subscriptions[operation.id] = subscription, stack
        # Offered, not put: nothing is awaited, so no event of it comes first.
        self._outbox.offer(frame("subscribed", operation.id, cursor=str(subscription.cursor)))

    async def _unsubscribe(self, id: str) -> None:
        if id not in self._subscriptions:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "not_found", f"there is no subscription {id[:60]!r} here")
        _, stack = self._subscriptions.pop(id)
        await stack.aclose()
        await self._outbox.put(frame("unsubscribed", id))

    # Writing

    async def _write(self) -> None:
        """Send what waits, until nothing more will come; or, after the end, for as long as that may take."""
        loop = asyncio.get_running_loop()
        with suppress(OutboxClosed, TimeoutError):
            async with asyncio.timeout(None) as self._writing_limit:
                if self._outbox.closed is not None:
                    self._on_close()
                while True:
                    waiting = await self._outbox.take()
                    self._is_writing = True
                    replied = None
                    for portion in portions(waiting):
                        for _, reader, cursor in portion:
                            if reader is not None:
                                # Written at once, whatever becomes of the wait: all that is sent later comes behind it.
                                reader.sent = cursor
                                replied = cursor if reader is self._replies else replied
                        await self._send({"type": FRAMES, "texts": [text for text, _, _ in portion]})
                    self._is_writing = False
                    self._heard_at = loop.time()
                    if replied is not None:
                        self._receipts.sent(replied)
        self._writing_limit = None

    def _on_close(self) -> None:
        if self._writing_limit is not None:
            self._writing_limit.reschedule(asyncio.get_running_loop().time() + ENDING_S)

    def _end(self, code: CloseCode, reason: str) -> None:
        """Close from this side."""
        if self._outbox.closed is None:
            self._closing = code, reason
            self._outbox.close(reason)

    async def _say_goodbye(self) -> None:
        closed = self._outbox.closed or ""
        if closed == GONE:
            return
        failed = CloseCode.FAILED, f"nothing more can be sent: {closed}"
        code, reason = self._closing or OUTBOX_REASONS.get(closed, failed)
        if closed != SLOW and self._publishing:
            await asyncio.wait(self._publishing, timeout=COMMITS_S)
        if code is not CloseCode.STOPPING:
            log.info("websocket closed", connection=self._session.id, code=int(code), reason=reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                texts = self._late
                if self._subscriptions:
                    cursors = {id: str(subscription.sent) for id, (subscription, _) in self._subscriptions.items()}
                    texts = [*texts, frame("closing", code=int(code), reason=reason, cursors=cursors)]
                await self._send({"type": FRAMES, "texts": texts})
                await self._send({"type": "websocket.close", "code": int(code), "reason": reason})

    # Watching

    def _position(self) -> Cursor | None:
        """How far the client certainly has its replies; None as long as nothing has to be remembered."""
        if not self._is_known:
            return None
        now = asyncio.get_running_loop().time()
        if now - self._moved_at >= QUIET_S and self._outbox.is_empty and not self._is_writing:
            self._moved_at = now
            self._receipts.sent(self._services.hub.position(self._replies))
        return self._receipts.confirmed

    def _watch_idleness(self) -> Callable[[], None]:
        """End the conversation when nothing went either way for too long. Returns what stops the watch."""
        limit_s = self._services.settings.ws_idle_s
        if limit_s is None:
            return lambda: None
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            left_s = self._heard_at + limit_s - loop.time()
            if left_s <= 0:
                self._end(CloseCode.IDLE, f"nothing went either way for {limit_s:g} s")
            else:
                timer = loop.call_later(left_s, look)

        look()
        return lambda: timer.cancel() if timer else None


def answer_frame(event: LoggedEvent) -> str:
    """A reply or a dead letter. Its payload goes out as it is stored: numbers of any size stay what they are."""
    op = "reply" if event.type == REPLY_TYPE else "failed"
    return f'{{"op":"{op}","cursor":"{event.cursor}",{event.payload[1:]}'


def event_frame(head: str, event: LoggedEvent) -> str:
    return f'{head}{event.place}","event":{event.json}}}'
