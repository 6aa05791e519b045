-- What a stateful filter goes by, for one delivery: what it has decided of it before, as JSON text, NULL if nothing; and for
-- each subject how many other events were let through within the time, counted up to what is asked for.
-- An event that was let through before, in a delivery that has ended, does not stand in its own way when it is replayed.
SELECT (
           SELECT result::text
           FROM reflex.step
           WHERE trigger_id = %(trigger_id)s AND event_id = %(event_id)s AND fingerprint = %(fingerprint)s
             AND occurrence = 0
       ) AS decided,
       ARRAY(
           SELECT (
               SELECT count(*)
               FROM (
                   SELECT
                   FROM reflex.passed
                   WHERE passed.trigger_id = %(trigger_id)s AND passed.subject = asked.subject
                     AND passed.passed_at > clock_timestamp() - asked.within
                     AND passed.event_id <> %(event_id)s
                   LIMIT asked.most
               ) AS counted
           )
           FROM unnest(%(subject)s::text[], %(within)s::interval[], %(most)s::bigint[]) WITH ORDINALITY
               AS asked (subject, within, most, turn)
           ORDER BY turn
       ) AS counts
