-- What holds for one transaction that reads for long, whatever the role, the database or the server is set to: how long it
-- takes is bounded by the client. transaction_timeout is there from Postgres 17 on. To compile a statement that reads all the
-- books takes longer than to run it.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
    pg_catalog.set_config('statement_timeout', '0', true),
    pg_catalog.set_config('jit', 'off', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true),
    CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
        THEN pg_catalog.set_config('transaction_timeout', '0', true) END
