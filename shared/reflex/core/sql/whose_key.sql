-- What an event says about the deliveries of the trigger %(name)s, which is in the same app as the trigger
-- %(trigger_id)s: that trigger, the event's key at the path (NULL: it has none), and when it was accepted. No row without
-- such an event or such triggers.
SELECT named.trigger_id, reflex.lane_key(string_to_array(%(key_path)s, '.'), event.key, event.source, event.payload::text),
       event.created_at
FROM reflex.trigger AS asking
JOIN reflex.trigger AS named ON named.app_id = asking.app_id AND named.name = %(name)s
CROSS JOIN reflex.event
WHERE asking.trigger_id = %(trigger_id)s AND event.event_id = %(event_id)s
