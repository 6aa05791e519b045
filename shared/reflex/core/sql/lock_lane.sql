-- Lock one lane, if there is one, before a delivery is taken out of it. Who dies or freezes between this and the commit
-- is cut off by the server: appends to the lane wait.
SELECT set_config('idle_in_transaction_session_timeout', %(standstill)s, true) AS standstill
FROM reflex.lane
WHERE trigger_id = %(trigger_id)s AND key = %(lane_key)s::text
FOR UPDATE
