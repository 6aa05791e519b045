-- What is no setting: whether the server takes writes, how it writes text, and how much there is.
SELECT pg_is_in_recovery() AS in_recovery,
       (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
       pg_database_size(current_database()) AS bytes
