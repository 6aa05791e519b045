-- Forget what a trigger remembers of a key. A run that has read it finds it gone, and begins anew.
DELETE FROM reflex.state
WHERE trigger_id = %(trigger_id)s AND key = %(key)s
RETURNING version
