-- Send payloads of progress, in their order and in one transaction: a NOTIFY takes an instance-wide lock at its commit.
-- PostgreSQL drops a notification that equals another of its transaction; sequence numbers keep these apart.
SELECT pg_notify('reflex_progress', payload)
FROM unnest(%(payloads)s::text[]) AS payload
