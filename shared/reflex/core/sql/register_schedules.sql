-- Add or update the schedules of an app; a retired one comes back. Returns name and id of each.
-- A schedule whose times did not change keeps next_at: a restart neither loses nor repeats a fire. One whose times
-- changed, or that was gone, starts now; a worker plans its first fire.
INSERT INTO reflex.schedule (app_id, name, spec, description, missed, overlap, type, payload, key, registered_at,
                             started_at)
SELECT %(app_id)s, given.name, given.spec::jsonb, given.description, given.missed, given.overlap, given.type,
       given.payload::jsonb, given.key, coalesce(%(now)s::timestamptz, now()), coalesce(%(now)s::timestamptz, now())
FROM unnest(
    %(name)s::text[], %(spec)s::text[], %(description)s::text[], %(missed)s::text[], %(overlap)s::text[],
    %(type)s::text[], %(payload)s::text[], %(key)s::text[]
) AS given (name, spec, description, missed, overlap, type, payload, key)
ON CONFLICT (app_id, name) DO UPDATE
SET spec          = excluded.spec,
    description   = excluded.description,
    missed        = excluded.missed,
    overlap       = excluded.overlap,
    type          = excluded.type,
    payload       = excluded.payload,
    key           = excluded.key,
    registered_at = excluded.registered_at,
    retired_at    = NULL,
    started_at    = CASE
                        WHEN schedule.spec = excluded.spec AND schedule.retired_at IS NULL THEN schedule.started_at
                        ELSE excluded.started_at
                    END,
    next_at       = CASE
                        WHEN schedule.spec = excluded.spec AND schedule.retired_at IS NULL THEN schedule.next_at
                    END
RETURNING name, schedule_id
