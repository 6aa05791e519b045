-- The last of the next thousand appends after a position that has an event with a lesser id than this, and how many events
-- of it that are. No row if there is none. The ids of an append are in their order.
SELECT position, (SELECT count(*) FROM unnest(event_ids) AS id WHERE id < %(event_id)s)::int AS place
FROM (
    SELECT position, event_ids
    FROM reflex.log
    WHERE position > %(position)s
    ORDER BY position
    LIMIT 1000
) AS next
WHERE event_ids[1] < %(event_id)s
ORDER BY position DESC
LIMIT 1
