-- Whether a run belongs to a delivery that a replay made: it, or one before it of the same delivery.
SELECT EXISTS (
    SELECT
    FROM reflex.replayed
    WHERE event_id = %(event_id)s AND trigger_id = %(trigger_id)s AND lease_epoch < %(lease_epoch)s
) AS is_replay
