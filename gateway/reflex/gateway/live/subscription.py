"""A subscription: one filter of one client, and how far it has read."""

from collections.abc import Callable, Sequence

from reflex.core.cursors import Cursor
from reflex.core.log_filter import LogFilter
from reflex.core.log_reading import LoggedEvent
from reflex.gateway.live.outbox import Outbox

__all__ = ["Subscription"]


class Subscription:
    """Events that pass a filter, as frames in an outbox.

    Args:
        render: An event as a frame.
        cursor: Where to go on reading; None means from now on.

    The outbox is closed when nothing more will come: as `slow`, `lost` (events are missing, begin anew), `stopping`, or
    with the code of an error.

    `cursor` is how far the log was read for it, once that is known. `sent` is the cursor of the last event that was
    handed to the connection: where its client resumes.
    """

    __slots__ = ("cursor", "filter", "outbox", "render", "sent")

    def __init__(
        self,
        filter: LogFilter,
        outbox: Outbox,
        *,
        render: Callable[[LoggedEvent], str],
        cursor: Cursor | None = None,
    ) -> None:
        self.filter = filter
        self.outbox = outbox
        self.render = render
        self.cursor = cursor
        self.sent = cursor

    def offer(self, event: LoggedEvent) -> None:
        """A live event."""
        self.outbox.offer(self.render(event), self, event.cursor)

    async def put(self, event: LoggedEvent) -> None:
        """An old event; waits for room."""
        await self.outbox.put(self.render(event), self, event.cursor)

    def has_room_for(self, events: Sequence[LoggedEvent]) -> bool:
        """Whether all of them can be offered."""
        chars = sum(len(self.render(event)) for event in events)
        return not events or self.outbox.has_room(chars, frames=len(events))
