"""The tables of what agents' runs keep, as SQLAlchemy sees them: see `schema`."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from reflex.core.columns import AT, NOW, TYPE, ZERO, identity, key, metadata, needed, optional

__all__ = ["metadata"]

step = sa.Table(
    "step",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    key("fingerprint", sa.LargeBinary),
    key("occurrence", sa.Integer),
    needed("kind", sa.Text),
    needed("position", sa.Integer),
    needed("result", JSON),
    needed("lease_epoch", sa.Integer),
    needed("created_at", AT, default=NOW),
    sa.CheckConstraint(
        "kind IN ('model_request', 'tool_call', 'wait', 'intent', 'effect', 'inbox', 'blob', 'filter')", name="kind"
    ),
)
sa.Index(
    "ix_step_intent", step.c.event_id, step.c.trigger_id, step.c.position, postgresql_where=sa.text("kind = 'intent'")
)
waiting = sa.Table(
    "waiting",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    optional("lane_key", TYPE),
    needed("kind", sa.Text),
    needed("reason", sa.Text),
    needed("since", AT, default=NOW),
)
sa.Index(
    "ix_waiting_lane_key", waiting.c.trigger_id, waiting.c.lane_key, postgresql_where=waiting.c.lane_key.is_not(None)
)
spend = sa.Table(
    "spend",
    metadata,
    identity("spend_id", sa.BigInteger),
    needed("trigger_id", sa.Integer),
    needed("scope", TYPE),
    needed("subject", TYPE),
    needed("quantity", TYPE),
    needed("period", TYPE),
    needed("window_at", AT),
    optional("ends_at", AT),
    needed("allowed", sa.Numeric),
    needed("raised", sa.Numeric, default=ZERO),
    needed("spent", sa.Numeric, default=ZERO),
    needed("reserved", sa.Numeric, default=ZERO),
    optional("refused_at", AT),
    needed("expires_at", AT),
    sa.UniqueConstraint("trigger_id", "scope", "subject", "quantity", "period", "window_at"),
    sa.CheckConstraint("spent >= 0 AND reserved >= 0", name="amounts"),
    sa.CheckConstraint("scope IN ('run', 'trigger', 'key', 'tree')", name="scope"),
    sa.CheckConstraint("quantity IN ('requests', 'tokens', 'tool_calls', 'usd')", name="quantity"),
    sa.Index("ix_spend_expires_at", "expires_at"),
)
sa.Index("ix_spend_ends_at", spend.c.ends_at, postgresql_where=spend.c.scope == "trigger")
sa.Index("ix_spend_refused_at", spend.c.refused_at, postgresql_where=spend.c.refused_at.is_not(None))
sa.Table(
    "reservation",
    metadata,
    key("reservation_id", sa.Uuid),
    needed("trigger_id", sa.Integer),
    needed("event_id", sa.Uuid),
    needed("lease_epoch", sa.Integer),
    needed("spend_ids", ARRAY(sa.BigInteger)),
    needed("amounts", ARRAY(sa.Numeric)),
    needed("reserved_at", AT, default=NOW),
)
sa.Table(
    "state",
    metadata,
    key("trigger_id", sa.Integer),
    key("key", TYPE),
    needed("version", sa.BigInteger),
    optional("schema_version", sa.Integer),
    optional("data", JSON),
    optional("messages", JSON),
    optional("usage", JSON),
    needed("updated_at", AT, default=NOW),
    sa.CheckConstraint("(schema_version IS NULL) = (data IS NULL)", name="schema_version"),
    sa.CheckConstraint("(messages IS NULL) = (usage IS NULL)", name="usage"),
)
awaited = sa.Table(
    "awaited",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    key("since", AT),
    key("number", sa.Integer),
    needed("type_low", ARRAY(TYPE)),
    needed("type_high", ARRAY(TYPE)),
    optional("key", sa.Text),
    needed("position", sa.BigInteger),
    optional("look_at", AT),
)
is_followed = awaited.c.look_at.is_(None)
sa.Index("ix_awaited_key", awaited.c.key, postgresql_where=is_followed & awaited.c.key.is_not(None))
sa.Index("ix_awaited_any_key", awaited.c.trigger_id, postgresql_where=is_followed & awaited.c.key.is_(None))
sa.Index("ix_awaited_look_at", awaited.c.look_at, postgresql_where=awaited.c.look_at.is_not(None))
sa.Table(
    "cancellation",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    optional("reason", sa.Text),
    needed("asked_at", AT, default=NOW),
)
sa.Table(
    "replayed",
    metadata,
    key("event_id", sa.Uuid),
    key("trigger_id", sa.Integer),
    needed("lease_epoch", sa.Integer),
    needed("replayed_at", AT, default=NOW),
)
sa.Table("await_mark", metadata, key("position", sa.BigInteger))
sa.Table(
    "circuit",
    metadata,
    key("model", TYPE),
    needed("failures", sa.Integer),
    needed("reason", sa.Text),
    needed("failed_at", AT, default=NOW),
    needed("opened", sa.Integer, default=ZERO),
    optional("open_until", AT),
    optional("probing_until", AT),
)
approval = sa.Table(
    "approval",
    metadata,
    key("approval_id", sa.Uuid),
    needed("trigger_id", sa.Integer),
    needed("event_id", sa.Uuid),
    optional("lane_key", TYPE),
    needed("fingerprint", sa.LargeBinary),
    needed("occurrence", sa.Integer),
    needed("tool", sa.Text),
    needed("tool_call_id", sa.Text),
    needed("arguments", JSON),
    needed("digest", sa.LargeBinary),
    optional("metadata", JSON),
    needed("edits_allowed", sa.Boolean),
    needed("created_at", AT),
    needed("expires_at", AT),
    optional("decision", sa.Text),
    optional("decided_at", AT),
    optional("decided_by", sa.Text),
    optional("edited_arguments", JSON),
    optional("reason", sa.Text),
    sa.CheckConstraint("octet_length(digest) = 32", name="digest"),
    sa.CheckConstraint("decision IN ('approved', 'denied', 'expired')", name="decision"),
    sa.CheckConstraint("(decision IS NULL) = (decided_at IS NULL)", name="decided"),
)
sa.Index("ix_approval_pending", approval.c.approval_id, postgresql_where=approval.c.decided_at.is_(None))
sa.Table(
    "passed",
    metadata,
    key("event_id", sa.Uuid),
    key("trigger_id", sa.Integer),
    key("subject", TYPE),
    needed("passed_at", AT),
    needed("expires_at", AT),
    sa.Index("ix_passed_subject", "trigger_id", "subject", "passed_at"),
    sa.Index("ix_passed_expires_at", "expires_at"),
)
batch = sa.Table(
    "batch",
    metadata,
    key("trigger_id", sa.Integer),
    key("event_id", sa.Uuid),
    needed("subject", TYPE),
    needed("events", sa.Integer),
    needed("sealed", sa.Boolean),
    needed("due_at", AT),
    sa.Index("ix_batch_due_at", "due_at"),
)
sa.Index("ix_batch_subject", batch.c.trigger_id, batch.c.subject, unique=True, postgresql_where=~batch.c.sealed)
gathered = sa.Table(
    "gathered",
    metadata,
    key("event_id", sa.Uuid),
    key("trigger_id", sa.Integer),
    needed("subject", TYPE),
    needed("accepted_at", AT),
    optional("batch_id", sa.Uuid),
    needed("fired", sa.Boolean, default=sa.text("false")),
    optional("expires_at", AT),
)
has_end = gathered.c.expires_at.is_not(None)
sa.Index("ix_gathered_batch_id", gathered.c.trigger_id, gathered.c.batch_id,
         postgresql_where=gathered.c.batch_id.is_not(None))  # fmt: skip
sa.Index("ix_gathered_subject", gathered.c.trigger_id, gathered.c.subject, gathered.c.accepted_at,
         postgresql_where=has_end)  # fmt: skip
sa.Index("ix_gathered_expires_at", gathered.c.expires_at, postgresql_where=has_end)
