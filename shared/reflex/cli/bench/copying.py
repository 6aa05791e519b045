"""The limit of an ingest: COPY of the same rows, from one connection, a thousand events a commit."""

import time
from datetime import UTC, datetime
from typing import Final

import orjson

from reflex.cli.bench.databases import connected
from reflex.cli.bench.sample import PAYLOAD
from reflex.core.ids import new_id

__all__ = ["copy_rate"]

COMMIT: Final = 1000


def copy_rate(url: str, *, events: int) -> float:
    """Events a second, each a row of the log and a row of the queue. The rows are made beforehand."""
    payload = orjson.dumps(PAYLOAD).decode().replace("\\", "\\\\")
    moment = datetime.now(UTC).isoformat()
    with connected(url) as conn:
        found = conn.execute("SELECT trigger_id FROM reflex.trigger WHERE name = 'placed'").fetchone()
        assert found is not None
        blocks: list[tuple[str, str]] = []
        for _ in range(0, events, COMMIT):
            ids = [str(new_id()) for _ in range(COMMIT)]
            log = "".join(f"{id}\tbench.placed\tbench\t{moment}\t{payload}\n" for id in ids)
            blocks.append((log, "".join(f"{found[0]}\t{id}\n" for id in ids)))
        began = time.monotonic()
        for log, queue in blocks:
            with conn.transaction(), conn.cursor() as cursor:
                with cursor.copy("COPY reflex.event (event_id, type, source, time, payload) FROM STDIN") as copy:
                    copy.write(log)
                with cursor.copy("COPY reflex.delivery (trigger_id, event_id) FROM STDIN") as copy:
                    copy.write(queue)
        return len(blocks) * COMMIT / (time.monotonic() - began)
