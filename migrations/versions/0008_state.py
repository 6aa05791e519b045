"""What agents remember: a row for each trigger and key.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# One row and one version for both things that a trigger remembers of a key: a run changes both or none, and two runs
# of one key cannot each change one of them. `json` keeps what `jsonb` refuses: a model may say \u0000. What is not
# changed keeps its place in the TOAST table, so a small state beside a long memory is cheap to write.
# The version of a row is never used again, in no row: one that was forgotten and made anew is another one to all who
# have read it before. A row of version 0 exists only within the transaction that makes it.
TABLES = """
CREATE SEQUENCE reflex.state_version;
CREATE TABLE reflex.state (
    trigger_id     int NOT NULL,
    key            text COLLATE "C" NOT NULL,
    version        bigint NOT NULL,
    schema_version int,
    data           json,
    messages       json,
    usage          json,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_state PRIMARY KEY (trigger_id, key),
    CONSTRAINT ck_state_schema_version CHECK ((schema_version IS NULL) = (data IS NULL)),
    CONSTRAINT ck_state_usage CHECK ((messages IS NULL) = (usage IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.state")
    op.execute("DROP SEQUENCE reflex.state_version")
