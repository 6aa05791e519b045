"""API keys may be bound to types and sources of events.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Null is bound to none. An empty array is no way to say that: a key that means nothing would mean everything.
UP = """
ALTER TABLE reflex.api_key
    ADD COLUMN types text[],
    ADD COLUMN sources text[],
    ADD CONSTRAINT ck_api_key_types CHECK (cardinality(types) > 0),
    ADD CONSTRAINT ck_api_key_sources CHECK (cardinality(sources) > 0);
"""
# A key that is bound would be let in everywhere by code that does not know of that.
DOWN = """
UPDATE reflex.api_key
SET revoked_at = coalesce(revoked_at, now())
WHERE types IS NOT NULL OR sources IS NOT NULL;
ALTER TABLE reflex.api_key DROP COLUMN types, DROP COLUMN sources;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(UP)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(DOWN)
