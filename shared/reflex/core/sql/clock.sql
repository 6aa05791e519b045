-- What time it is in the database: the only clock that stored moments are compared with.
SELECT clock_timestamp() AS now
