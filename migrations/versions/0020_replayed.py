"""Deliveries that a replay made are marked as such.

Revision ID: 0020
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # By the event first: with it the marks go. Runs with a higher lease_epoch belong to a replay. What was replayed
    # before there was this table has no mark.
    op.execute(
        """
        CREATE TABLE reflex.replayed (
            event_id    uuid NOT NULL,
            trigger_id  integer NOT NULL,
            lease_epoch integer NOT NULL,
            replayed_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_replayed PRIMARY KEY (event_id, trigger_id)
        )
        """
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.replayed")
