"""What agents used up is summed over a day of runs, found by an index of those that used something.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # A run of a plain function has no usage, and costs nothing here.
    op.execute("CREATE INDEX ix_run_usage ON reflex.run (finished_at) WHERE usage IS NOT NULL")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP INDEX reflex.ix_run_usage")
