"""Large texts in journals: kept once for a delivery, by their digest.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# A large text is a step: read, forgotten and purged with those that hold it.
KINDS = """
ALTER TABLE reflex.step DROP CONSTRAINT ck_step_kind;
ALTER TABLE reflex.step ADD CONSTRAINT ck_step_kind
    CHECK (kind IN ('model_request', 'tool_call', 'wait', 'intent', 'effect', 'inbox'{more}));
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(KINDS.format(more=", 'blob'"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # What held them cannot be read without, and is paid for again.
    op.execute("DELETE FROM reflex.step WHERE kind = 'blob' OR result::text LIKE '{\"cut\":%'")
    op.execute(KINDS.format(more=""))
