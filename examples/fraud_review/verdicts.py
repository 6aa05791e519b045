"""The app's own table, in the database of Reflex."""

from typing import Any

from psycopg import AsyncConnection

# An app of yours has this in its migrations. The lock is for two workers that need the table at the same moment.
CREATE = """
SELECT pg_advisory_xact_lock(hashtext('fraud_verdict'));
CREATE TABLE IF NOT EXISTS public.fraud_verdict (
    payment_id text PRIMARY KEY,
    decision text NOT NULL,
    reason text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
)
"""
WRITE = """
INSERT INTO public.fraud_verdict (payment_id, decision, reason)
VALUES (%(payment_id)s, %(decision)s, %(reason)s)
ON CONFLICT (payment_id) DO UPDATE SET decision = excluded.decision, reason = excluded.reason, written_at = now()
"""


async def write(conn: AsyncConnection[Any], payment_id: str, decision: str, reason: str) -> None:
    """Write it in the transaction that the connection is in."""
    found = await conn.execute("SELECT to_regclass('public.fraud_verdict') IS NULL")
    if await found.fetchone() == (True,):
        await conn.execute(CREATE)
    await conn.execute(WRITE, {"payment_id": payment_id, "decision": decision, "reason": reason})
