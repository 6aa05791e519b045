-- A model that had failed has answered.
DELETE FROM reflex.circuit
WHERE model = %(model)s::text
RETURNING model
