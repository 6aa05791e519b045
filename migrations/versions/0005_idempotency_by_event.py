"""Idempotency keys are found by their event: they go with it.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not CONCURRENTLY: that waits for every older snapshot, and a second `reflex migrate` that waits for its turn has
    # one. Appends with an idempotency key wait meanwhile: about a second for a million keys.
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("CREATE INDEX ix_idempotency_event_id ON reflex.idempotency (event_id)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP INDEX reflex.ix_idempotency_event_id")
