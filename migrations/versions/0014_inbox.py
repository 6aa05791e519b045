"""What a run took of its lane while it ran is a step of its journal.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KINDS = """
ALTER TABLE reflex.step DROP CONSTRAINT ck_step_kind;
ALTER TABLE reflex.step ADD CONSTRAINT ck_step_kind
    CHECK (kind IN ('model_request', 'tool_call', 'wait', 'intent', 'effect'{more}));
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(KINDS.format(more=", 'inbox'"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DELETE FROM reflex.step WHERE kind = 'inbox'")
    op.execute(KINDS.format(more=""))
