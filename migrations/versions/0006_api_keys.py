"""API keys: who may publish, read and operate.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A few rows, read by every gateway every few seconds. The digest is the SHA-256 of the whole secret: that is random
# enough (190 bits) for a hash that is slow on purpose to add nothing. A revoked key stays: its name says whose it was.
TABLES = """
CREATE TABLE reflex.api_key (
    key_id       text COLLATE "C" NOT NULL,
    digest       bytea NOT NULL,
    name         text NOT NULL,
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT pk_api_key PRIMARY KEY (key_id),
    CONSTRAINT ck_api_key_digest CHECK (octet_length(digest) = 32),
    CONSTRAINT ck_api_key_scopes CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['publish', 'read', 'operate'])
);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.api_key")
