"""Models whose provider fails: who asks them, and when.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A row for each model that has failed since it last answered; most of the time there is none. Open means that nobody
# asks the model before `open_until`; then one run does, and holds off the others until `probing_until`.
TABLES = """
CREATE TABLE reflex.circuit (
    model         text COLLATE "C" NOT NULL,
    failures      int NOT NULL,
    reason        text NOT NULL,
    failed_at     timestamptz NOT NULL DEFAULT now(),
    opened        int NOT NULL DEFAULT 0,
    open_until    timestamptz,
    probing_until timestamptz,
    CONSTRAINT pk_circuit PRIMARY KEY (model)
);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.circuit")
