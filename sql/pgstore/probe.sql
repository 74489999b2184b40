SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('server_encoding'),
    current_setting('synchronous_commit'), current_setting('max_connections')::int, current_setting('fsync') = 'on',
    clock_timestamp()
