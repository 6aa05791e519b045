-- Lock one lane, waiting for whoever has it, but not for long: that may be a process that is frozen.
-- Who waits for this lock must hold no other lane's: only then can nobody wait for somebody in a circle.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', %(patience)s, true) AS lock_timeout
)
SELECT lane.trigger_id
FROM patience
CROSS JOIN reflex.lane
WHERE lane.trigger_id = %(trigger_id)s AND lane.key = %(key)s AND lane.ready
FOR UPDATE OF lane
