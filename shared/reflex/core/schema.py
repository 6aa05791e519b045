"""The tables as SQLAlchemy sees them: what Alembic compares the migrations with. The reasons are written there.

Nothing at run time imports this: the hot statements are named SQL, and a gateway is smaller without SQLAlchemy.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from reflex.core import run_schema
from reflex.core.columns import AT, NOW, TYPE, ZERO, identity, key, metadata, needed, optional

__all__ = ["metadata"]

assert run_schema.metadata is metadata  # its tables are among these

sa.Table("app", metadata, identity("app_id"), needed("name", sa.Text), needed("registered_at", AT, default=NOW),
         sa.UniqueConstraint("name"))  # fmt: skip
sa.Table(
    "event_type",
    metadata,
    key("type", TYPE),
    key("app_id", sa.Integer, sa.ForeignKey("reflex.app.app_id")),
    needed("schema", JSONB),
    needed("registered_at", AT, default=NOW),
)
sa.Table(
    "trigger",
    metadata,
    identity("trigger_id"),
    needed("app_id", sa.Integer, sa.ForeignKey("reflex.app.app_id")),
    needed("name", sa.Text),
    needed("max_attempts", sa.Integer),
    needed("definition", JSONB),
    needed("registered_at", AT, default=NOW),
    optional("retired_at", AT),
    optional("key_path", ARRAY(sa.Text)),
    needed("when_dead", sa.Text, default=sa.text("'continue'")),
    sa.UniqueConstraint("app_id", "name"),
    sa.CheckConstraint("max_attempts > 0", name="max_attempts"),
    sa.CheckConstraint("when_dead IN ('continue', 'hold')", name="when_dead"),
)
sa.Table(
    "route",
    metadata,
    key("pattern", TYPE),
    key("trigger_id", sa.Integer, sa.ForeignKey("reflex.trigger.trigger_id")),
    needed("low", TYPE),
    needed("high", TYPE),
    optional("key_path", ARRAY(sa.Text)),
)
event = sa.Table(
    "event",
    metadata,
    key("event_id", sa.Uuid),
    needed("type", TYPE),
    needed("source", sa.Text),
    optional("key", sa.Text),
    needed("time", AT),
    needed("payload", JSONB),
    optional("correlation_id", sa.Text),
    optional("causation_id", sa.Uuid),
    needed("depth", sa.SmallInteger, default=ZERO),
    optional("trace_context", sa.Text),
    optional("available_at", AT),
    needed("created_at", AT, default=NOW),
    optional("reply_to", sa.Text),
    sa.Index("ix_event_type", "type", "event_id"),
    postgresql_partition_by="RANGE (event_id)",
)
for partial in ("key", "correlation_id"):
    sa.Index(
        f"ix_event_{partial}",
        event.c[partial],
        event.c.event_id,
        postgresql_where=event.c[partial].is_not(None),
    )
sa.Table("appended", metadata, identity("append_id", sa.BigInteger), needed("event_ids", ARRAY(sa.Uuid)))
sa.Table("log", metadata, identity("position", sa.BigInteger), needed("event_ids", ARRAY(sa.Uuid)),
         needed("placed_at", AT, default=NOW))  # fmt: skip
sa.Table("log_start", metadata, key("position", sa.BigInteger), needed("place", sa.Integer))
sa.Table(
    "session",
    metadata,
    key("session_id", sa.Text),
    needed("position", sa.BigInteger),
    needed("place", sa.Integer),
    needed("seen_at", AT, default=NOW),
    sa.Index("ix_session_seen_at", "seen_at"),
)
sa.Table(
    "idempotency",
    metadata,
    key("source", sa.Text),
    key("key", sa.Text),
    needed("event_id", sa.Uuid),
    needed("created_at", AT, default=NOW),
    sa.Index("ix_idempotency_event_id", "event_id"),
)
sa.Table("unrouted", metadata, key("type", TYPE), key("event_id", sa.Uuid))
sa.Table(
    "delivery",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    needed("attempt", sa.SmallInteger, default=ZERO),
    needed("lease_epoch", sa.Integer, default=ZERO),
)
sa.Table(
    "scheduled",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    needed("attempt", sa.SmallInteger, default=ZERO),
    needed("lease_epoch", sa.Integer, default=ZERO),
    needed("available_at", AT),
    optional("lane_key", TYPE),
    sa.Index("ix_scheduled_available_at", "available_at"),
)
sa.Table(
    "lease",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    needed("attempt", sa.SmallInteger),
    needed("lease_epoch", sa.Integer),
    needed("worker_id", sa.Uuid),
    needed("started_at", AT, default=NOW),
    optional("lane_key", TYPE),
    optional("position", sa.BigInteger),
)
lane = sa.Table(
    "lane",
    metadata,
    key("trigger_id", sa.Integer),
    key("key", TYPE),
    needed("pending", sa.BigInteger, default=ZERO),
    needed("running", sa.Integer, default=ZERO),
    needed("held", sa.Integer, default=ZERO),
    needed("head", sa.BigInteger),
    optional("available_at", AT),
    needed(
        "ready",
        sa.Boolean,
        sa.Computed("pending > 0 AND running = 0 AND held = 0 AND available_at IS NULL", persisted=True),
    ),
    needed("empty", sa.Boolean, sa.Computed("pending = 0 AND running = 0 AND held = 0", persisted=True)),
    sa.CheckConstraint("pending >= 0 AND running >= 0 AND held >= 0", name="counts"),
)
sa.Index("ix_lane_ready", lane.c.trigger_id, lane.c.head, postgresql_where=lane.c.ready)
sa.Index("ix_lane_empty", lane.c.trigger_id, postgresql_where=lane.c.empty)
sa.Index("ix_lane_available_at", lane.c.available_at, postgresql_where=lane.c.available_at.is_not(None))
sa.Index("ix_lane_held", lane.c.trigger_id, postgresql_where=lane.c.held > 0)
sa.Table(
    "ordered",
    metadata,
    key("trigger_id", sa.Integer),
    key("key", TYPE),
    key("position", sa.BigInteger),
    key("event_id", sa.Uuid),
    needed("attempt", sa.SmallInteger, default=ZERO),
    needed("lease_epoch", sa.Integer, default=ZERO),
    sa.Index("ix_ordered_event_id", "event_id", "trigger_id"),
)
run = sa.Table(
    "run",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    key("lease_epoch", sa.Integer),
    needed("attempt", sa.SmallInteger),
    needed("worker_id", sa.Uuid),
    needed("started_at", AT),
    needed("finished_at", AT, default=NOW),
    needed("outcome", sa.Text),
    optional("error", sa.Text),
    optional("output", JSONB),
    optional("usage", JSONB),
    optional("trace_id", sa.Text),
    sa.CheckConstraint(
        "outcome IN ('succeeded', 'skipped', 'retry', 'dead', 'released', 'lost', 'cancelled', 'waiting')",
        name="outcome",
    ),
    postgresql_partition_by="RANGE (event_id)",
)
sa.Index("ix_run_usage", run.c.finished_at, postgresql_where=run.c.usage.is_not(None))
sa.Table(
    "dead_letter",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    needed("attempt", sa.SmallInteger),
    needed("lease_epoch", sa.Integer),
    needed("reason", sa.Text),
    optional("error", sa.Text),
    needed("died_at", AT, default=NOW),
    optional("lane_key", TYPE),
    optional("position", sa.BigInteger),
    needed("holds", sa.Boolean, default=sa.text("false")),
    sa.Index("ix_dead_letter_died_at", "died_at"),
)
sa.Table(
    "worker",
    metadata,
    key("worker_id", sa.Uuid),
    needed("app_id", sa.Integer),
    needed("trigger_ids", ARRAY(sa.Integer)),
    needed("host", sa.Text),
    needed("pid", sa.Integer),
    needed("slots", sa.Integer),
    needed("started_at", AT, default=NOW),
    needed("heartbeat_at", AT, default=NOW),
    needed("schedule_ids", ARRAY(sa.Integer), default=sa.text("'{}'")),
)
sa.Table(
    "schedule",
    metadata,
    identity("schedule_id"),
    needed("app_id", sa.Integer, sa.ForeignKey("reflex.app.app_id")),
    needed("name", sa.Text),
    needed("spec", JSONB),
    needed("description", sa.Text),
    needed("missed", sa.Text),
    needed("overlap", sa.Text),
    needed("type", TYPE),
    needed("payload", JSONB),
    optional("key", sa.Text),
    needed("registered_at", AT, default=NOW),
    optional("retired_at", AT),
    needed("started_at", AT, default=NOW),
    optional("next_at", AT),
    optional("last_at", AT),
    optional("last_event_id", sa.Uuid),
    needed("fired", sa.BigInteger, default=ZERO),
    needed("skipped", sa.BigInteger, default=ZERO),
    sa.UniqueConstraint("app_id", "name"),
    sa.CheckConstraint("missed IN ('once', 'skip', 'all')", name="missed"),
    sa.CheckConstraint("overlap IN ('allow', 'skip')", name="overlap"),
)
sa.Table(
    "webhook",
    metadata,
    key("name", TYPE),
    needed("app_id", sa.Integer, sa.ForeignKey("reflex.app.app_id")),
    needed("definition", JSONB),
    needed("registered_at", AT, default=NOW),
)
sa.Table(
    "api_key",
    metadata,
    key("key_id", TYPE),
    needed("digest", sa.LargeBinary),
    needed("name", sa.Text),
    needed("scopes", ARRAY(sa.Text)),
    needed("created_at", AT, default=NOW),
    optional("expires_at", AT),
    optional("revoked_at", AT),
    optional("last_used_at", AT),
    optional("types", ARRAY(sa.Text)),
    optional("sources", ARRAY(sa.Text)),
    optional("rate", sa.Double),
    optional("quota", sa.BigInteger),
    sa.CheckConstraint("rate > 0", name="rate"),
    sa.CheckConstraint("quota > 0", name="quota"),
    sa.CheckConstraint("octet_length(digest) = 32", name="digest"),
    sa.CheckConstraint("cardinality(types) > 0", name="types"),
    sa.CheckConstraint("cardinality(sources) > 0", name="sources"),
    sa.CheckConstraint("cardinality(scopes) > 0 AND scopes <@ ARRAY['publish', 'read', 'operate']", name="scopes"),
)
sa.Table(
    "allowance",
    metadata,
    key("key_id", TYPE, sa.ForeignKey("reflex.api_key.key_id", ondelete="CASCADE")),
    needed("tokens", sa.Double),
    needed("refilled_at", AT),
    needed("day", sa.Date),
    needed("used", sa.BigInteger, default=ZERO),
    sa.CheckConstraint("used >= 0", name="used"),
)
