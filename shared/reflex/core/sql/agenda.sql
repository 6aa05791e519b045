-- What stands in the tables for some worker to do: how long until something that was put off is due (a time that is
-- over if it is already), and whether any run waits for an event or is to be cancelled. Reads a row of each.
SELECT least(
           (SELECT available_at FROM reflex.scheduled ORDER BY available_at LIMIT 1),
           (SELECT available_at FROM reflex.lane WHERE available_at IS NOT NULL ORDER BY available_at LIMIT 1)
       ) - now() AS due_in,
       EXISTS (SELECT FROM reflex.awaited) AS awaited,
       EXISTS (SELECT FROM reflex.cancellation) AS cancelling
