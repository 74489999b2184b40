-- Has figures be made by whole days and not row by row, and only if the turn is free.
SELECT pg_catalog.set_config('enable_hashjoin', 'on', true), pg_catalog.set_config('jit', 'off', true),
    pg_catalog.set_config('lock_timeout', '100ms', true)
