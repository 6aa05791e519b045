"""Approvals: tool calls that a person has to approve before they are made.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# One row a question, made in the transaction that settles the run that asks as waiting. `fingerprint` and `occurrence`
# name the step in the run's journal that knows of it: where that is gone, nobody waits for the answer any more.
# `arguments` is json and not jsonb: what was shown, and what the digest was made of, is kept to the letter.
# A pending one has no decision; the index of those is small, and the listing that people look at comes from it.
TABLES = """
CREATE TABLE reflex.approval (
    approval_id      uuid NOT NULL,
    trigger_id       int NOT NULL,
    event_id         uuid NOT NULL,
    lane_key         text COLLATE "C",
    fingerprint      bytea NOT NULL,
    occurrence       int NOT NULL,
    tool             text NOT NULL,
    tool_call_id     text NOT NULL,
    arguments        json NOT NULL,
    digest           bytea NOT NULL,
    metadata         json,
    edits_allowed    boolean NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    decision         text,
    decided_at       timestamptz,
    decided_by       text,
    edited_arguments json,
    reason           text,
    CONSTRAINT pk_approval PRIMARY KEY (approval_id),
    CONSTRAINT ck_approval_digest CHECK (octet_length(digest) = 32),
    CONSTRAINT ck_approval_decision CHECK (decision IN ('approved', 'denied', 'expired')),
    CONSTRAINT ck_approval_decided CHECK ((decision IS NULL) = (decided_at IS NULL))
);
CREATE INDEX ix_approval_pending ON reflex.approval (approval_id) WHERE decided_at IS NULL;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE reflex.approval")
