"""Runs that wait for events, and deliveries that a person cancels.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What waiting runs wait for: a row for each `wait_for` that a run ended with. It belongs to the row of `waiting` with
# the same `since`; without one it means nothing, and is swept. Only whoever has `await_mark` locked changes it, and a
# settling only adds rows, so nobody waits for anybody.
# `position` is that of the last append that the run itself has looked at. `look_at` is when somebody has to look at
# what came after it, for this row alone; NULL once the row is followed: all new events up to `await_mark` were held
# against it, and what is newer will be.
TABLES = """
CREATE TABLE reflex.awaited (
    trigger_id int NOT NULL,
    event_id   uuid NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    number     int NOT NULL,
    type_low   text[] COLLATE "C" NOT NULL,
    type_high  text[] COLLATE "C" NOT NULL,
    key        text,
    position   bigint NOT NULL,
    look_at    timestamptz,
    CONSTRAINT pk_awaited PRIMARY KEY (trigger_id, event_id, since, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_awaited_key ON reflex.awaited (key) WHERE look_at IS NULL AND key IS NOT NULL;
CREATE INDEX ix_awaited_any_key ON reflex.awaited (trigger_id) WHERE look_at IS NULL AND key IS NULL;
CREATE INDEX ix_awaited_look_at ON reflex.awaited (look_at) WHERE look_at IS NOT NULL;

-- One row.
CREATE TABLE reflex.await_mark (
    position bigint NOT NULL,
    CONSTRAINT pk_await_mark PRIMARY KEY (position)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO reflex.await_mark (position) VALUES (0);

-- Running deliveries that somebody wants to end. The row goes with the delivery's end, whatever that is.
CREATE TABLE reflex.cancellation (
    trigger_id int NOT NULL,
    event_id   uuid NOT NULL,
    reason     text,
    asked_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_cancellation PRIMARY KEY (trigger_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    for table in ("cancellation", "await_mark", "awaited"):
        op.execute(f"DROP TABLE reflex.{table}")
