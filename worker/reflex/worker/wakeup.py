"""Wake-ups: LISTEN on a connection of its own. A notification is a hint; the polling of the claim loop is the truth."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import psycopg
import structlog

from reflex.core.database import answered_within, connect
from reflex.core.listening import listen_to, notified
from reflex.core.progress import WATCH_CHANNEL, ask_who_watches

__all__ = ["listen"]

PROBE_S: Final = 30.0
PROBE_ANSWER_S: Final = 5.0
# Where nothing can be heard it is not tried again before that: the pooler may have gone.
DEAF_S: Final = 60.0


async def listen(url: str, channels: dict[str, Callable[[], None]], *, watch: Callable[[], None]) -> None:
    """Call a channel's function at each of its notifications, and all of `channels` after every (re)connect, for what
    was sent while nobody listened. Runs until cancelled; an outage is waited out.

    Args:
        watch: Called when a gateway says that somebody watches, which it is asked for after every (re)connect.
    """
    log = structlog.get_logger()
    heard = {**channels, WATCH_CHANNEL: watch}
    wait_s = 0.1
    while True:
        try:
            conn = await connect(url, name="reflex listener")
            try:
                await listen_to(conn, heard)
                await ask_who_watches(conn)
                wait_s = 0.1
                for wake in channels.values():
                    wake()
                while True:
                    while said := await notified(conn, within_s=PROBE_S):
                        for notification in said:
                            heard[notification.channel]()
                    # A connection on which nothing comes looks the same whether it works or not.
                    with answered_within(PROBE_ANSWER_S, conn):
                        await conn.execute("SELECT")
            finally:
                await conn.close()
        except psycopg.NotSupportedError as error:
            log.warning("work is found by polling only, which takes longer", reason=str(error))
            await asyncio.sleep(DEAF_S)
        except (psycopg.Error, OSError) as error:
            log.debug("listener lost its connection; polling goes on", error=str(error).strip())
        await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 (jitter)
        wait_s = min(wait_s * 2, 5)
