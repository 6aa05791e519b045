"""Budgets: what triggers have spent, and what is set aside for calls that are in flight.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# A row of `spend` for each budget and window, made by the first call that asks for it; trigger_id is 0 where a budget
# is not of one trigger alone. window_at is 1970 where there is no window, and then ends_at is null. `allowed` is what
# was declared when it was last asked for, and for people to read; `raised` is what a person has added.
# What changes with each call is not indexed, so that the row is rewritten in place (HOT): expires_at moves only where
# there is no window, refused_at when the budget is used up.
# A row of `reservation` is a call in flight. Its lease is what it lives by: where the lease is gone, it is given back.
TABLES = """
CREATE TABLE reflex.spend (
    spend_id   bigint GENERATED ALWAYS AS IDENTITY,
    trigger_id int NOT NULL,
    scope      text COLLATE "C" NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    quantity   text COLLATE "C" NOT NULL,
    period     text COLLATE "C" NOT NULL,
    window_at  timestamptz NOT NULL,
    ends_at    timestamptz,
    allowed    numeric NOT NULL,
    raised     numeric NOT NULL DEFAULT 0,
    spent      numeric NOT NULL DEFAULT 0,
    reserved   numeric NOT NULL DEFAULT 0,
    refused_at timestamptz,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_spend PRIMARY KEY (spend_id),
    CONSTRAINT uq_spend_trigger_id_scope_subject_quantity_period_window_at
        UNIQUE (trigger_id, scope, subject, quantity, period, window_at),
    CONSTRAINT ck_spend_amounts CHECK (spent >= 0 AND reserved >= 0),
    CONSTRAINT ck_spend_scope CHECK (scope IN ('run', 'trigger', 'key', 'tree')),
    CONSTRAINT ck_spend_quantity CHECK (quantity IN ('requests', 'tokens', 'tool_calls', 'usd'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ix_spend_expires_at ON reflex.spend (expires_at);
CREATE INDEX ix_spend_ends_at ON reflex.spend (ends_at) WHERE scope = 'trigger';
CREATE INDEX ix_spend_refused_at ON reflex.spend (refused_at) WHERE refused_at IS NOT NULL;

CREATE TABLE reflex.reservation (
    reservation_id uuid NOT NULL,
    trigger_id     int NOT NULL,
    event_id       uuid NOT NULL,
    lease_epoch    int NOT NULL,
    spend_ids      bigint[] NOT NULL,
    amounts        numeric[] NOT NULL,
    reserved_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_reservation PRIMARY KEY (reservation_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.reservation")
    op.execute("DROP TABLE reflex.spend")
