"""Tool calls that must not be repeated: what a run is about to do is written before it does it.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# An intent and its result are steps: read, forgotten and purged with the others. The index is for people who ask what
# is not known; hardly a row is in it.
KINDS = """
ALTER TABLE reflex.step DROP CONSTRAINT ck_step_kind;
ALTER TABLE reflex.step ADD CONSTRAINT ck_step_kind
    CHECK (kind IN ('model_request', 'tool_call', 'wait'{more}));
"""
INDEX = """
CREATE INDEX ix_step_intent ON reflex.step (event_id, trigger_id, position) WHERE kind = 'intent';
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(KINDS.format(more=", 'intent', 'effect'"))
    op.execute(INDEX)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP INDEX reflex.ix_step_intent")
    op.execute("DELETE FROM reflex.step WHERE kind IN ('intent', 'effect')")
    op.execute(KINDS.format(more=""))
