-- Has fact_find look up each id in the index, whatever the planner believes of tables that it has no statistics of.
SELECT pg_catalog.set_config('enable_seqscan', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true),
    pg_catalog.set_config('jit', 'off', true)
