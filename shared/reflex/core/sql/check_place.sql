-- Which server and database a connection leads to: two with the same answer lead to the same place.
SELECT pg_postmaster_start_time() AS started_at, oid
FROM pg_database
WHERE datname = current_database()
