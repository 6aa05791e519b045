"""The limit of a drain: claim and finish on our tables with psycopg alone. No agents, no filter, no fence, no retry.

Run as `python -m reflex.cli.bench.raw_loop BATCH`, with DATABASE_URL and the folder of the stamps in the environment.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg

from reflex.cli.bench.agents import STAMPS_FOLDER
from reflex.cli.bench.stamps import Stamps
from reflex.core.database import conninfo

__all__ = ["NAME", "main"]

NAME: Final = "bench raw loop"
IDLE_S: Final = 0.01
FINISH_AND_CLAIM: Final = """
WITH ended AS (
    DELETE FROM reflex.lease
    USING unnest(%(finished)s::uuid[]) AS done (event_id)
    WHERE lease.trigger_id = %(trigger_id)s AND lease.event_id = done.event_id
    RETURNING lease.*
),
recorded AS (
    INSERT INTO reflex.run (trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, outcome)
    SELECT trigger_id, event_id, lease_epoch, attempt, worker_id, started_at, 'succeeded'
    FROM ended
),
taken AS (
    DELETE FROM reflex.delivery
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM reflex.delivery
        WHERE trigger_id = %(trigger_id)s
        ORDER BY event_id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING event_id
),
leased AS (
    INSERT INTO reflex.lease (trigger_id, event_id, attempt, lease_epoch, worker_id)
    SELECT %(trigger_id)s, event_id, 1, 1, %(worker_id)s
    FROM taken
    RETURNING event_id
)
SELECT event_id, event.type, event.payload
FROM leased
JOIN reflex.event USING (event_id)
"""


def main() -> None:
    limit = int(sys.argv[1])
    stamps = Stamps(Path(os.environ[STAMPS_FOLDER]) / f"{os.getpid()}.stamps")
    with psycopg.connect(conninfo(os.environ["DATABASE_URL"], name=NAME), autocommit=True) as conn:
        found = conn.execute("SELECT trigger_id FROM reflex.trigger WHERE name = 'placed'").fetchone()
        assert found is not None
        parameters: dict[str, Any] = {"trigger_id": found[0], "worker_id": UUID(int=os.getpid()), "limit": limit}
        finished: list[UUID] = []
        while True:
            rows = conn.execute(FINISH_AND_CLAIM, {**parameters, "finished": finished}, binary=True).fetchall()
            for _ in rows:
                stamps.mark()
            finished = [row[0] for row in rows]
            if not rows:
                time.sleep(IDLE_S)


if __name__ == "__main__":
    main()
