-- Give back what was set aside for calls whose lease is gone: their worker died, or the run was stopped in the middle
-- of them. A reservation that is just being settled is left to who settles it.
-- The rows of the budgets are locked in the order of their ids, as everywhere.
WITH orphan AS (
    DELETE FROM reflex.reservation
    WHERE reservation_id = ANY(ARRAY(
        SELECT reservation_id
        FROM reflex.reservation
        WHERE NOT EXISTS (
            SELECT
            FROM reflex.lease
            WHERE lease.trigger_id = reservation.trigger_id
              AND lease.event_id = reservation.event_id
              AND lease.lease_epoch = reservation.lease_epoch
        )
        LIMIT %(limit)s::int
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING spend_ids, amounts
),
owed AS MATERIALIZED (
    SELECT share.spend_id, sum(share.amount) AS amount
    FROM orphan
    CROSS JOIN unnest(orphan.spend_ids, orphan.amounts) AS share (spend_id, amount)
    GROUP BY share.spend_id
),
locked AS MATERIALIZED (
    SELECT spend.spend_id, spend.reserved, owed.amount
    FROM owed
    JOIN reflex.spend ON spend.spend_id = owed.spend_id
    ORDER BY spend.spend_id
    FOR UPDATE OF spend
),
lowered AS (
    UPDATE reflex.spend
    SET reserved = locked.reserved - locked.amount
    FROM locked
    WHERE spend.spend_id = locked.spend_id
)
SELECT count(*) FROM orphan
