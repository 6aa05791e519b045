-- Lock one lane, if there is one, before a delivery is taken out of it. Who dies or freezes between this and the commit
-- is cut off by the server: appends to the lane wait.
SELECT set_config('idle_in_transaction_session_timeout', %(standstill)s, true)
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (
    SELECT FROM reflex.lane
    WHERE lane.trigger_id = %(trigger_id)s AND lane.key = %(lane_key)s
    FOR UPDATE
) AS locked ON true
