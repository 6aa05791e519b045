"""What stateful filters have let through, and what triggers gather before they run.

Revision ID: 0019
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# A row of `gathered` is an event that a trigger holds for a run to come: of a batch from the beginning, or of a window
# that may become one. Its key begins with the event, for that is how retention asks. A window's rows have an end, a
# batch's are there until it was handed over. `batch` is named by the event whose delivery hands it over.
TABLES = """
CREATE TABLE reflex.passed (
    event_id   uuid NOT NULL,
    trigger_id int NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    passed_at  timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_passed PRIMARY KEY (event_id, trigger_id, subject)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_passed_subject ON reflex.passed (trigger_id, subject, passed_at);
CREATE INDEX ix_passed_expires_at ON reflex.passed (expires_at);

CREATE TABLE reflex.batch (
    trigger_id int NOT NULL,
    event_id   uuid NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    events     int NOT NULL,
    sealed     boolean NOT NULL,
    due_at     timestamptz NOT NULL,
    CONSTRAINT pk_batch PRIMARY KEY (trigger_id, event_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX ix_batch_subject ON reflex.batch (trigger_id, subject) WHERE NOT sealed;
CREATE INDEX ix_batch_due_at ON reflex.batch (due_at);

CREATE TABLE reflex.gathered (
    event_id    uuid NOT NULL,
    trigger_id  int NOT NULL,
    subject     text COLLATE "C" NOT NULL,
    accepted_at timestamptz NOT NULL,
    batch_id    uuid,
    fired       boolean NOT NULL DEFAULT false,
    expires_at  timestamptz,
    CONSTRAINT pk_gathered PRIMARY KEY (event_id, trigger_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_gathered_batch_id ON reflex.gathered (trigger_id, batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX ix_gathered_subject ON reflex.gathered (trigger_id, subject, accepted_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ix_gathered_expires_at ON reflex.gathered (expires_at) WHERE expires_at IS NOT NULL;
"""
# What a stateful filter has decided of a delivery is a step: it stands in all attempts, and a replay forgets it.
KINDS = """
ALTER TABLE reflex.step DROP CONSTRAINT ck_step_kind;
ALTER TABLE reflex.step ADD CONSTRAINT ck_step_kind
    CHECK (kind IN ('model_request', 'tool_call', 'wait', 'intent', 'effect', 'inbox', 'blob'{more}));
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)
    op.execute(KINDS.format(more=", 'filter'"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DELETE FROM reflex.step WHERE kind = 'filter'")
    op.execute(KINDS.format(more=""))
    for table in ("gathered", "batch", "passed"):
        op.execute(f"DROP TABLE reflex.{table}")
