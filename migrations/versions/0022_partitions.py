"""Events and runs are in partitions by time.

Revision ID: 0022
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# Both are partitioned by the id of the event. It begins with the time at which it was made, so a range of ids is a
# time, and one event with all its runs is found in one partition without knowing when it was. What there was becomes
# the first partition, whole: nothing is copied. It ends with the day after tomorrow, or after the newest id, if some
# clock is ahead. Workers make the partitions after it. What none takes is in `event_rest` and `run_rest`: nothing is
# refused.
COLUMNS = {
    "event": """
    event_id       uuid NOT NULL,
    type           text COLLATE "C" NOT NULL,
    source         text NOT NULL,
    key            text,
    time           timestamptz NOT NULL,
    payload        jsonb NOT NULL,
    correlation_id text,
    causation_id   uuid,
    depth          smallint NOT NULL DEFAULT 0,
    trace_context  text,
    available_at   timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    reply_to       text,
    CONSTRAINT pk_event PRIMARY KEY (event_id)
""",
    "run": """
    trigger_id  int NOT NULL,
    event_id    uuid NOT NULL,
    lease_epoch int NOT NULL,
    attempt     smallint NOT NULL,
    worker_id   uuid NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    outcome     text NOT NULL,
    error       text,
    output      jsonb,
    usage       jsonb,
    trace_id    text,
    CONSTRAINT pk_run PRIMARY KEY (trigger_id, event_id, lease_epoch),
    CONSTRAINT ck_run_outcome CHECK (outcome IN
        ('succeeded', 'skipped', 'retry', 'dead', 'released', 'lost', 'cancelled', 'waiting'))
""",
}
INDEXES = {
    "ix_event_type": "ON reflex.event (type, event_id)",
    "ix_event_key": "ON reflex.event (key, event_id) WHERE key IS NOT NULL",
    "ix_event_correlation_id": "ON reflex.event (correlation_id, event_id) WHERE correlation_id IS NOT NULL",
    "ix_run_usage": "ON reflex.run (finished_at) WHERE usage IS NOT NULL",
}
# The names have to be free for the whole tables; an index that fits is attached, and not built again.
RENAME = """
ALTER TABLE reflex.{table} RENAME TO {table}_first;
ALTER TABLE reflex.{table}_first RENAME CONSTRAINT pk_{table} TO pk_{table}_first;
"""
ATTACH = """
CREATE TABLE reflex.{table}_rest PARTITION OF reflex.{table} DEFAULT;
DO $do$
DECLARE
    -- The greatest of a few: there is an order of ids, but no max() of them before PostgreSQL 18.
    newest uuid := (SELECT event_id FROM reflex.{table}_first ORDER BY event_id DESC LIMIT 1);
    known  double precision := ('x' || left(replace(newest::text, '-', ''), 12))::bit(48)::bigint / 1000.0;
    until  timestamptz := date_trunc('day', greatest(now(), to_timestamp(known)), 'UTC') + interval '48 hours';
BEGIN
    EXECUTE format(
        'ALTER TABLE reflex.{table} ATTACH PARTITION reflex.{table}_first FOR VALUES FROM (MINVALUE) TO (%L)',
        rpad(lpad(to_hex((extract(epoch FROM until) * 1000)::bigint), 12, '0'), 32, '0')::uuid
    );
END $do$;
"""
# Rows are copied: it takes as long as that takes.
DOWN = """
CREATE TABLE reflex.{table}_whole (LIKE reflex.{table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO reflex.{table}_whole SELECT * FROM reflex.{table};
DROP TABLE reflex.{table};
ALTER TABLE reflex.{table}_whole RENAME TO {table};
ALTER TABLE reflex.{table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({key});
"""
KEYS = {"event": "event_id", "run": "trigger_id, event_id, lease_epoch"}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    for table in COLUMNS:
        op.execute(RENAME.format(table=table))
    for index in INDEXES:
        op.execute(f"ALTER INDEX reflex.{index} RENAME TO {index}_first")
    for table, columns in COLUMNS.items():
        op.execute(f"CREATE TABLE reflex.{table} ({columns}) PARTITION BY RANGE (event_id)")
    for index, where in INDEXES.items():
        op.execute(f"CREATE INDEX {index} {where}")
    for table in COLUMNS:
        op.execute(ATTACH.format(table=table))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    for table, key in KEYS.items():
        op.execute(DOWN.format(table=table, key=key))
    for index, where in INDEXES.items():
        op.execute(f"CREATE INDEX {index} {where}")
