-- Has a report about all join its sums with their names at once: how many sums there are the planner can't tell.
SELECT pg_catalog.set_config('enable_nestloop', 'off', true)
