"""API keys may have a rate and a daily quota of events.

Revision ID: 0021
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# `rate` is events a second, `quota` events of a day in UTC. What is left of them is in a row of its own that gateways
# write often; keys without limits have none.
UP = """
ALTER TABLE reflex.api_key
    ADD COLUMN rate double precision,
    ADD COLUMN quota bigint,
    ADD CONSTRAINT ck_api_key_rate CHECK (rate > 0),
    ADD CONSTRAINT ck_api_key_quota CHECK (quota > 0);

CREATE TABLE reflex.allowance (
    key_id      text COLLATE "C" NOT NULL,
    tokens      double precision NOT NULL,
    refilled_at timestamptz NOT NULL,
    day         date NOT NULL,
    used        bigint DEFAULT 0 NOT NULL,
    CONSTRAINT pk_allowance PRIMARY KEY (key_id),
    CONSTRAINT fk_allowance_key_id_api_key FOREIGN KEY (key_id) REFERENCES reflex.api_key (key_id) ON DELETE CASCADE,
    CONSTRAINT ck_allowance_used CHECK (used >= 0)
) WITH (fillfactor = 50);
"""
# A key with limits would be without any for code that does not know of them.
DOWN = """
UPDATE reflex.api_key
SET revoked_at = coalesce(revoked_at, now())
WHERE rate IS NOT NULL OR quota IS NOT NULL;
DROP TABLE reflex.allowance;
ALTER TABLE reflex.api_key DROP COLUMN rate, DROP COLUMN quota;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(UP)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(DOWN)
