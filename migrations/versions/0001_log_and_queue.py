"""The log, the queue and the registry.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A pending delivery is inserted once and deleted once: claiming moves it to `lease`, settling moves that to
# `run`. Nothing hot is updated in place, so the tables that are claimed from stay as small as the backlog.
# Hot tables carry no foreign keys: each would cost a look-up and a row lock per event.
TABLES = """
CREATE TABLE reflex.app (
    app_id        int GENERATED ALWAYS AS IDENTITY,
    name          text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_app PRIMARY KEY (app_id),
    CONSTRAINT uq_app_name UNIQUE (name)
);

CREATE TABLE reflex.event_type (
    type          text COLLATE "C" NOT NULL,
    app_id        int NOT NULL,
    schema        jsonb NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_event_type PRIMARY KEY (type, app_id),
    CONSTRAINT fk_event_type_app_id_app FOREIGN KEY (app_id) REFERENCES reflex.app (app_id)
);

CREATE TABLE reflex.trigger (
    trigger_id    int GENERATED ALWAYS AS IDENTITY,
    app_id        int NOT NULL,
    name          text NOT NULL,
    max_attempts  int NOT NULL,
    definition    jsonb NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    retired_at    timestamptz,
    CONSTRAINT pk_trigger PRIMARY KEY (trigger_id),
    CONSTRAINT uq_trigger_app_id_name UNIQUE (app_id, name),
    CONSTRAINT fk_trigger_app_id_app FOREIGN KEY (app_id) REFERENCES reflex.app (app_id),
    CONSTRAINT ck_trigger_max_attempts CHECK (max_attempts > 0)
);

-- pattern is a type, a prefix with a wildcard ('order.*') or '*'; low and high bound the types it matches.
CREATE TABLE reflex.route (
    pattern    text COLLATE "C" NOT NULL,
    trigger_id int NOT NULL,
    low        text COLLATE "C" NOT NULL,
    high       text COLLATE "C" NOT NULL,
    CONSTRAINT pk_route PRIMARY KEY (pattern, trigger_id),
    CONSTRAINT fk_route_trigger_id_trigger FOREIGN KEY (trigger_id) REFERENCES reflex.trigger (trigger_id)
);

CREATE TABLE reflex.event (
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
    CONSTRAINT pk_event PRIMARY KEY (event_id)
);
CREATE INDEX ix_event_type ON reflex.event (type, event_id);
CREATE INDEX ix_event_key ON reflex.event (key, event_id) WHERE key IS NOT NULL;
CREATE INDEX ix_event_correlation_id ON reflex.event (correlation_id, event_id) WHERE correlation_id IS NOT NULL;

CREATE TABLE reflex.idempotency (
    source     text NOT NULL,
    key        text NOT NULL,
    event_id   uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_idempotency PRIMARY KEY (source, key)
);

CREATE TABLE reflex.unrouted (
    type     text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    CONSTRAINT pk_unrouted PRIMARY KEY (type, event_id)
);

CREATE TABLE reflex.delivery (
    trigger_id  int NOT NULL,
    event_id    uuid NOT NULL,
    attempt     smallint NOT NULL DEFAULT 0,
    lease_epoch int NOT NULL DEFAULT 0,
    CONSTRAINT pk_delivery PRIMARY KEY (trigger_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000);

CREATE TABLE reflex.scheduled (
    trigger_id   int NOT NULL,
    event_id     uuid NOT NULL,
    attempt      smallint NOT NULL DEFAULT 0,
    lease_epoch  int NOT NULL DEFAULT 0,
    available_at timestamptz NOT NULL,
    CONSTRAINT pk_scheduled PRIMARY KEY (trigger_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ix_scheduled_available_at ON reflex.scheduled (available_at);

-- LOGGED on purpose: while a delivery runs, its lease is the only place it exists.
CREATE TABLE reflex.lease (
    trigger_id  int NOT NULL,
    event_id    uuid NOT NULL,
    attempt     smallint NOT NULL,
    lease_epoch int NOT NULL,
    worker_id   uuid NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_lease PRIMARY KEY (trigger_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE reflex.run (
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
        ('succeeded', 'skipped', 'retry', 'dead', 'released', 'lost', 'cancelled'))
);

-- What runs have paid for, until their delivery has succeeded: at most a few rows for each model request and tool call.
-- json, not jsonb: it comes back exactly as it was written, and it can hold the \\u0000 that a model may say.
CREATE TABLE reflex.step (
    trigger_id  int NOT NULL,
    event_id    uuid NOT NULL,
    fingerprint bytea NOT NULL,
    occurrence  int NOT NULL,
    kind        text NOT NULL,
    position    int NOT NULL,
    result      json NOT NULL,
    lease_epoch int NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_step PRIMARY KEY (trigger_id, event_id, fingerprint, occurrence),
    CONSTRAINT ck_step_kind CHECK (kind IN ('model_request', 'tool_call'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE reflex.dead_letter (
    trigger_id  int NOT NULL,
    event_id    uuid NOT NULL,
    attempt     smallint NOT NULL,
    lease_epoch int NOT NULL,
    reason      text NOT NULL,
    error       text,
    died_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_dead_letter PRIMARY KEY (trigger_id, event_id)
);
CREATE INDEX ix_dead_letter_died_at ON reflex.dead_letter (died_at);

CREATE TABLE reflex.worker (
    worker_id    uuid NOT NULL,
    app_id       int NOT NULL,
    trigger_ids  int[] NOT NULL,
    host         text NOT NULL,
    pid          int NOT NULL,
    slots        int NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_worker PRIMARY KEY (worker_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("CREATE SCHEMA IF NOT EXISTS reflex")
    op.execute(TABLES)


def downgrade() -> None:
    for table in (
        "worker", "dead_letter", "step", "run", "lease", "scheduled", "delivery", "unrouted",
        "idempotency", "event", "route", "trigger", "event_type", "app",
    ):  # fmt: skip
        op.execute(f"DROP TABLE reflex.{table}")
