-- What gateways that stop have not handed out of their portions. The quota of a day that is over is not returned.
UPDATE reflex.allowance AS a
SET tokens = least(greatest(k.rate, 1), a.tokens + r.rated),
    used = CASE WHEN a.day = (coalesce(%(now)s::timestamptz, now()) AT TIME ZONE 'UTC')::date
                THEN greatest(a.used - r.counted, 0) ELSE a.used END
FROM unnest(%(key_ids)s::text[], %(rated)s::float8[], %(counted)s::bigint[]) AS r (key_id, rated, counted)
JOIN reflex.api_key AS k USING (key_id)
WHERE a.key_id = r.key_id
