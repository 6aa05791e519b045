-- Lock one lane, if it is there. Who waits for this lock must hold no other lane's, unless it is this one.
SELECT trigger_id
FROM reflex.lane
WHERE trigger_id = %(trigger_id)s::int AND key = %(lane_key)s::text
FOR UPDATE
