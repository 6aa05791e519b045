"""The heartbeat: a thread of its own with a connection of its own, so that neither user code that blocks the event
loop nor a busy pool can make a living worker look dead."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg import Connection

from reflex.core.database import conninfo, sever
from reflex.core.workers import Beat, beat

__all__ = ["Heartbeat"]

# A worker may miss three beats in a row before it is declared dead.
BEATS_PER_LEASE_TIMEOUT: Final = 4


class Heartbeat(threading.Thread):
    """Beats until it is stopped or finds that its worker was declared dead."""

    def __init__(
        self,
        url: str,
        *,
        worker_id: UUID,
        lease_timeout_s: float,
        on_declared_dead: Callable[[], object],
        on_overdue: Callable[[], object] | None = None,
    ) -> None:
        """`on_declared_dead` is called from this thread, at most once; `on_overdue` at each beat while a run that was
        cancelled has not ended within the lease timeout. Neither may block."""
        super().__init__(name="heartbeat", daemon=True)
        self.worker_id = worker_id
        self.interval_s = lease_timeout_s / BEATS_PER_LEASE_TIMEOUT
        # On a path that went dead a beat must fail while there is still time for another one.
        self.conninfo = conninfo(
            url, name="reflex heartbeat", connect_timeout=2, tcp_user_timeout=int(self.interval_s * 1000)
        )
        self.on_declared_dead = on_declared_dead
        self.on_overdue = on_overdue
        self.grace = timedelta(seconds=lease_timeout_s)
        self.stopped = threading.Event()
        self.log = structlog.get_logger().bind(worker_id=str(worker_id))

    def run(self) -> None:
        conn: Connection[Any] | None = None
        missed = 0
        while not self.stopped.is_set():
            try:
                if conn is None:
                    # One small statement: not worth preparing, which not every pooler in between could keep.
                    conn = psycopg.connect(self.conninfo, autocommit=True, prepare_threshold=None)
                alive = self.beat(conn)
            except psycopg.Error as error:
                missed += 1
                self.log.warning("heartbeat failed, trying again", missed=missed, error=str(error).strip())
                if conn is not None:
                    conn.close()
                    conn = None
                self.stopped.wait(min(self.interval_s / 2, 1))
                continue
            if missed:
                self.log.info("heartbeat is back", missed=missed)
                missed = 0
            if alive is not None and alive.is_overdue and self.on_overdue is not None:
                self.on_overdue()
            if alive is None:
                self.log.error("this worker was declared dead: its runs are stopped and it starts anew")
                self.on_declared_dead()
                break
            self.stopped.wait(self.interval_s)
        if conn is not None:
            conn.close()

    def beat(self, conn: Connection[Any]) -> Beat | None:
        """One beat, which fails if it is not answered while there is still time for another one."""
        clock = threading.Timer(max(self.interval_s, 1), sever, [conn])
        clock.daemon = True
        clock.start()
        try:
            return beat(conn, self.worker_id, grace=self.grace)
        finally:
            clock.cancel()
            clock.join()  # from here on it severs nothing: not what a later connection finds at this descriptor

    def stop(self) -> None:
        """Returns once the thread has ended, or after 2 s."""
        self.stopped.set()
        if self.is_alive():
            self.join(2)
