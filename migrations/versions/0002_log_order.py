"""The order of the log, for readers that resume; answers that find their way back; the positions of sessions.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# `appended` holds what was appended and has no position yet; whoever holds the placer's lock moves it to `log`.
# Both hold one row for up to 100 events of an append. Neither sequence may cache: numbers are drawn in order.
TABLES = """
CREATE TABLE reflex.appended (
    append_id bigint GENERATED ALWAYS AS IDENTITY,
    event_ids uuid[] NOT NULL,
    CONSTRAINT pk_appended PRIMARY KEY (append_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE reflex.log (
    position  bigint GENERATED ALWAYS AS IDENTITY,
    event_ids uuid[] NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_log PRIMARY KEY (position)
);

-- One row: everything up to here was dropped.
CREATE TABLE reflex.log_start (
    position bigint NOT NULL,
    place    int NOT NULL,
    CONSTRAINT pk_log_start PRIMARY KEY (position)
);
INSERT INTO reflex.log_start (position, place) VALUES (0, 0);

ALTER TABLE reflex.event ADD COLUMN reply_to text;

CREATE TABLE reflex.session (
    session_id text NOT NULL,
    position   bigint NOT NULL,
    place      int NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_session PRIMARY KEY (session_id)
) WITH (fillfactor = 70);
CREATE INDEX ix_session_seen_at ON reflex.session (seen_at);

-- What was appended before there was an order gets the order of its ids, which is that of the gateways' clocks.
INSERT INTO reflex.appended (event_ids)
SELECT array_agg(event_id ORDER BY event_id)
FROM (SELECT event_id, (row_number() OVER (ORDER BY event_id) - 1) / 100 AS chunk FROM reflex.event) AS numbered
GROUP BY chunk
ORDER BY chunk;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("ALTER TABLE reflex.event DROP COLUMN reply_to")
    for table in ("session", "log_start", "log", "appended"):
        op.execute(f"DROP TABLE reflex.{table}")
