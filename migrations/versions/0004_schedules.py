"""Schedules: what appends an event by the clock.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A few rows for each app, updated once a fire. next_at is null until a worker has planned the first fire: the database
# cannot read cron. started_at is where the planning begins; an interval is counted from there.
# A worker's row says which schedules it knows, as it does for triggers; workers of before this revision know none.
TABLES = """
CREATE TABLE reflex.schedule (
    schedule_id   int GENERATED ALWAYS AS IDENTITY,
    app_id        int NOT NULL,
    name          text NOT NULL,
    spec          jsonb NOT NULL,
    description   text NOT NULL,
    missed        text NOT NULL,
    overlap       text NOT NULL,
    type          text COLLATE "C" NOT NULL,
    payload       jsonb NOT NULL,
    key           text,
    registered_at timestamptz NOT NULL DEFAULT now(),
    retired_at    timestamptz,
    started_at    timestamptz NOT NULL DEFAULT now(),
    next_at       timestamptz,
    last_at       timestamptz,
    last_event_id uuid,
    fired         bigint NOT NULL DEFAULT 0,
    skipped       bigint NOT NULL DEFAULT 0,
    CONSTRAINT pk_schedule PRIMARY KEY (schedule_id),
    CONSTRAINT uq_schedule_app_id_name UNIQUE (app_id, name),
    CONSTRAINT fk_schedule_app_id_app FOREIGN KEY (app_id) REFERENCES reflex.app (app_id),
    CONSTRAINT ck_schedule_missed CHECK (missed IN ('once', 'skip', 'all')),
    CONSTRAINT ck_schedule_overlap CHECK (overlap IN ('allow', 'skip'))
) WITH (fillfactor = 50);

ALTER TABLE reflex.worker ADD COLUMN schedule_ids int[] NOT NULL DEFAULT '{}';
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("ALTER TABLE reflex.worker DROP COLUMN schedule_ids")
    op.execute("DROP TABLE reflex.schedule")
