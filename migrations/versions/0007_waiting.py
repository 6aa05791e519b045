"""Deliveries that wait: for a time, an event or a person.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A delivery that waits is a scheduled one, or the first of a lane that waits; its row here says for what. It is made
# when the run that has to wait is settled, and goes when the delivery is due again: who made it due does not matter.
# Every wait has an end, in the row that makes it due.
TABLES = """
CREATE TABLE reflex.waiting (
    trigger_id int NOT NULL,
    event_id   uuid NOT NULL,
    lane_key   text COLLATE "C",
    kind       text NOT NULL,
    reason     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_waiting PRIMARY KEY (trigger_id, event_id)
);
CREATE INDEX ix_waiting_lane_key ON reflex.waiting (trigger_id, lane_key) WHERE lane_key IS NOT NULL;
"""
# Reads the runs once, a second for some millions; meanwhile nothing is settled.
OUTCOMES = """
ALTER TABLE reflex.run DROP CONSTRAINT ck_run_outcome;
ALTER TABLE reflex.run ADD CONSTRAINT ck_run_outcome CHECK (outcome IN
    ('succeeded', 'skipped', 'retry', 'dead', 'released', 'lost', 'cancelled'{more}));
"""
KINDS = """
ALTER TABLE reflex.step DROP CONSTRAINT ck_step_kind;
ALTER TABLE reflex.step ADD CONSTRAINT ck_step_kind CHECK (kind IN ('model_request', 'tool_call'{more}));
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)
    op.execute(OUTCOMES.format(more=", 'waiting'"))
    op.execute(KINDS.format(more=", 'wait'"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("UPDATE reflex.run SET outcome = 'released' WHERE outcome = 'waiting'")
    op.execute("DELETE FROM reflex.step WHERE kind = 'wait'")
    op.execute(OUTCOMES.format(more=""))
    op.execute(KINDS.format(more=""))
    op.execute("DROP TABLE reflex.waiting")
