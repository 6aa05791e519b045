-- Notify. A transaction that does nothing else writes nothing to be waited for: neither by a disk nor by a standby.
SELECT pg_notify(%(channel)s, '')::text AS notified
