-- The event that first used each idempotency key, for the answer to a duplicate.
-- A duplicate is accepted as well, so its answer waits for the same standbys as the first one's. That one may be seen here
-- and be nowhere else: whoever waits too long for a commit cancels it, and a cancelled commit is one without its standby.
-- Only what writes waits, hence a message to nobody; without standbys it is not sent.
SELECT idempotency.source, idempotency.key, idempotency.event_id,
       (SELECT CASE WHEN current_setting('synchronous_standby_names') <> ''
                    THEN pg_logical_emit_message(true, 'reflex', '') END)::text AS waits_for
FROM unnest(%(source)s::text[], %(key)s::text[]) AS asked (source, key)
JOIN reflex.idempotency USING (source, key)
