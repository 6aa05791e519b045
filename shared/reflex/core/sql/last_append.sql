-- The greatest number that an append has drawn so far. A sequence that was never asked says 1 all the same.
SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS append_id
FROM reflex.appended_append_id_seq
