"""Webhooks: what gateways take at /webhooks/<name>, and which events it becomes.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# A row for each address, written when an app registers. Secrets are in the environment of the gateways.
TABLE = """
CREATE TABLE reflex.webhook (
    name          text COLLATE "C" NOT NULL,
    app_id        int NOT NULL,
    definition    jsonb NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_webhook PRIMARY KEY (name),
    CONSTRAINT fk_webhook_app_id_app FOREIGN KEY (app_id) REFERENCES reflex.app (app_id)
)
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.webhook")
