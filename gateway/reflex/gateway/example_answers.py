"""Answers as they look, for the documentation; tests hold them against the schemas."""

from typing import Any, Final

__all__ = ["ACCEPTED", "EFFECTS", "EVENT", "HEALTH", "REPLAYED", "RESOLVED", "RETRIED", "SETTLED"]

EVENT_ID: Final = "0198a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"

ACCEPTED: Final[dict[str, Any]] = {"id": EVENT_ID}
SETTLED: Final[dict[str, Any]] = {
    "id": EVENT_ID,
    "duplicate": False,
    "deliveries": [
        {
            "id": f"3-{EVENT_ID}",
            "trigger": "high-value-orders",
            "app": "shop.triggers",
            "state": "succeeded",
            "output": {"decision": "review"},
            "error": None,
        }
    ],
}
REPLAYED: Final[dict[str, Any]] = {
    "cursor": "AQAAAAAAAAEsAAU",
    "up_to": "AQAAAAAAAARSAAE",
    "looked_at": 1210,
    "replayed": 500,
    "left_alone": 2,
    "finished": False,
}
RETRIED: Final[dict[str, Any]] = {"retried": 3, "limit_reached": False}
EFFECTS: Final[dict[str, Any]] = {
    "effects": [
        {
            "id": f"3-{EVENT_ID}.2",
            "delivery_id": f"3-{EVENT_ID}",
            "step": 2,
            "state": "unknown",
            "trigger": "high-value-orders",
            "app": "shop.triggers",
            "event_id": EVENT_ID,
            "type": "order.created",
            "event_key": "A1",
            "tool": "charge_card",
            "arguments": {"order": "A1", "cents": 25000},
            "key": "4ccb8e0a8161310042ba141f2e0c3ec6b9655834",
            "reason": "the tool ended with TimeoutError",
            "begun_at": "2026-01-31T09:00:00.015Z",
            "waits": True,
        }
    ],
    "next_cursor": None,
}
RESOLVED: Final[dict[str, Any]] = {"id": f"3-{EVENT_ID}.2", "done": True, "due": True}
EVENT: Final[dict[str, Any]] = {
    "id": EVENT_ID,
    "type": "order.created",
    "source": "shop",
    "key": "A1",
    "time": "2026-01-31T09:00:00Z",
    "payload": {"order_id": "A1", "amount": 250.0},
    "correlation_id": None,
    "causation_id": None,
    "depth": 0,
    "trace_context": None,
    "available_at": None,
    "created_at": "2026-01-31T09:00:00.012345Z",
    "unrouted": False,
    "deliveries": [
        {
            "id": f"3-{EVENT_ID}",
            "trigger": "high-value-orders",
            "app": "shop.triggers",
            "state": "succeeded",
            "attempt": 1,
            "available_at": None,
            "worker": None,
            "reason": None,
            "waiting_for": None,
            "error": None,
            "died_at": None,
            "replayed_at": None,
            "runs": [
                {
                    "lease_epoch": 1,
                    "attempt": 1,
                    "outcome": "succeeded",
                    "started_at": "2026-01-31T09:00:00.015Z",
                    "finished_at": "2026-01-31T09:00:01.215Z",
                    "duration_ms": 1200.0,
                    "error": None,
                    "output": "approved",
                    "usage": {"requests": 1, "input_tokens": 212, "output_tokens": 9},
                    "trace_id": None,
                    "worker_id": "5b0e6c1e-1d3c-4a52-9d3b-2f1f0c9a7e11",
                    "is_replay": False,
                }
            ],
        }
    ],
    "follow_ups": [],
}
HEALTH: Final[dict[str, Any]] = {
    "status": "degraded",
    "problems": [
        "app 'shop.triggers' has due deliveries and no live worker; start one with `reflex worker --app shop.triggers`"
    ],
    "database": {"latency_ms": 3.1},
    "queue": {
        "pending": 12,
        "scheduled": 0,
        "running": 0,
        "dead": 1,
        "unrouted": 0,
        "orphaned": 0,
        "oldest_pending_s": 41.5,
        "estimated": [],
        "held_keys": 0,
        "waiting": 0,
    },
    "workers": [],
}
