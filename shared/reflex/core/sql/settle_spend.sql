-- A call is over: what was set aside for it is taken back, and what it has cost is counted.
-- A reservation that is gone was given back because its lease is lost: the call was paid for all the same. Only if this
-- is said %(again)s, after a broken connection, is it most likely that it was counted the first time.
-- The commit does not wait for the disk: the step that the journal writes next does, and what was committed before it
-- is then safe as well.
WITH mine AS (
    DELETE FROM reflex.reservation
    WHERE reservation_id = %(reservation_id)s::uuid
    RETURNING reservation_id
),
known AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM mine) AS held
),
locked AS MATERIALIZED (
    SELECT spend.spend_id, spend.spent, spend.reserved, share.amount, share.cost, known.held
    FROM known
    CROSS JOIN unnest(%(spend_id)s::bigint[], %(amount)s::numeric[], %(cost)s::numeric[])
        AS share (spend_id, amount, cost)
    JOIN reflex.spend ON spend.spend_id = share.spend_id
    ORDER BY spend.spend_id
    FOR UPDATE OF spend
)
UPDATE reflex.spend
SET reserved = locked.reserved - CASE WHEN locked.held THEN locked.amount ELSE 0 END,
    spent    = locked.spent + CASE WHEN locked.held OR NOT %(again)s::boolean THEN locked.cost ELSE 0 END
FROM locked
WHERE spend.spend_id = locked.spend_id
RETURNING set_config('synchronous_commit', 'off', true)
