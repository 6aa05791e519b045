"""Order per key: the lanes of ordered triggers, and what is pending in them.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A lane is a trigger and a key. Its row is the lock of everything that is ordered there: a row of `ordered`, and a
# lease that has a lane, are only made or removed by who holds it, and who does changes the lane's row.
# So a lane whose row is as a snapshot saw it is as that snapshot saw it in all its parts.
# `pending` counts its rows of `ordered`, `running` its leases, `held` the dead letters that stop it: all three are only
# ever added to and subtracted from. `ready` and `empty` change far less often than the numbers they are made of, and
# only they are indexed: an append to a busy lane can then rewrite its row in place (HOT).
# `position` is drawn while the lane is locked, so that it follows the order of the commits. It is negative for events
# that waited for their trigger before it was registered; those of one millisecond are told apart by their ids.
TABLES = """
CREATE SEQUENCE reflex.lane_position;

CREATE TABLE reflex.lane (
    trigger_id   int NOT NULL,
    key          text COLLATE "C" NOT NULL,
    pending      bigint NOT NULL DEFAULT 0,
    running      int NOT NULL DEFAULT 0,
    held         int NOT NULL DEFAULT 0,
    head         bigint NOT NULL,
    available_at timestamptz,
    ready        boolean NOT NULL
                 GENERATED ALWAYS AS (pending > 0 AND running = 0 AND held = 0 AND available_at IS NULL) STORED,
    empty        boolean NOT NULL GENERATED ALWAYS AS (pending = 0 AND running = 0 AND held = 0) STORED,
    CONSTRAINT pk_lane PRIMARY KEY (trigger_id, key),
    CONSTRAINT ck_lane_counts CHECK (pending >= 0 AND running >= 0 AND held >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ix_lane_ready ON reflex.lane (trigger_id, head) WHERE ready;
CREATE INDEX ix_lane_empty ON reflex.lane (trigger_id) WHERE empty;
CREATE INDEX ix_lane_available_at ON reflex.lane (available_at) WHERE available_at IS NOT NULL;
CREATE INDEX ix_lane_held ON reflex.lane (trigger_id) WHERE held > 0;

CREATE TABLE reflex.ordered (
    trigger_id  int NOT NULL,
    key         text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,
    event_id    uuid NOT NULL,
    attempt     smallint NOT NULL DEFAULT 0,
    lease_epoch int NOT NULL DEFAULT 0,
    CONSTRAINT pk_ordered PRIMARY KEY (trigger_id, key, position, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000);
CREATE INDEX ix_ordered_event_id ON reflex.ordered (event_id, trigger_id);

ALTER TABLE reflex.trigger
    ADD COLUMN key_path  text[],
    ADD COLUMN when_dead text NOT NULL DEFAULT 'continue',
    ADD CONSTRAINT ck_trigger_when_dead CHECK (when_dead IN ('continue', 'hold'));
ALTER TABLE reflex.route ADD COLUMN key_path text[];
ALTER TABLE reflex.scheduled ADD COLUMN lane_key text COLLATE "C";
ALTER TABLE reflex.lease
    ADD COLUMN lane_key text COLLATE "C",
    ADD COLUMN position bigint;
ALTER TABLE reflex.dead_letter
    ADD COLUMN lane_key text COLLATE "C",
    ADD COLUMN position bigint,
    ADD COLUMN holds    boolean NOT NULL DEFAULT false;
"""

# What a key path finds in an event; NULL if there is nothing, or a JSON null. An index row has to fit on a third of a
# page, so a long value is cut and told apart by its hash; that two such keys meet in one lane would do no harm.
# One expression of immutable functions without a subquery is inlined into the statements, and five times as fast.
LANE_KEY = """
CREATE FUNCTION reflex.lane_key(key_path text[], key text, source text, payload text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE key_path[1]
    WHEN 'key' THEN key
    WHEN 'source' THEN source
    ELSE CASE
        WHEN octet_length(payload::jsonb #>> key_path[2:]) <= 512 THEN payload::jsonb #>> key_path[2:]
        ELSE left(payload::jsonb #>> key_path[2:], 64) || '#'
             || to_hex(hashtextextended(payload::jsonb #>> key_path[2:], 0))
    END
END
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)
    op.execute(LANE_KEY)


def downgrade() -> None:
    # Ordered deliveries go on as others do: without their order, but not lost.
    op.execute(
        "INSERT INTO reflex.delivery (trigger_id, event_id, attempt, lease_epoch) "
        "SELECT trigger_id, event_id, attempt, lease_epoch FROM reflex.ordered"
    )
    op.execute("DROP FUNCTION reflex.lane_key")
    op.execute("ALTER TABLE reflex.dead_letter DROP COLUMN lane_key, DROP COLUMN position, DROP COLUMN holds")
    op.execute("ALTER TABLE reflex.lease DROP COLUMN lane_key, DROP COLUMN position")
    op.execute("ALTER TABLE reflex.scheduled DROP COLUMN lane_key")
    op.execute("ALTER TABLE reflex.route DROP COLUMN key_path")
    op.execute("ALTER TABLE reflex.trigger DROP COLUMN key_path, DROP COLUMN when_dead")
    for table in ("ordered", "lane"):
        op.execute(f"DROP TABLE reflex.{table}")
    op.execute("DROP SEQUENCE reflex.lane_position")
