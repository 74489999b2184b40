SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
    pg_catalog.current_setting('synchronous_commit'), pg_catalog.current_setting('max_connections')::int,
    pg_catalog.current_setting('fsync') OPERATOR(pg_catalog.=) 'on', pg_catalog.clock_timestamp()
