-- What holds for one transaction, whatever the role, the database or the server is set to. Batches are forgotten once they
-- are committed, so a commit must be on disk. A client that stops with the transaction open must not keep the others from
-- these rows for long; how long the work takes is bounded by the client. An update of known rows looks each of them up in
-- the index, whatever the planner believes that reading the whole table costs. Nothing is looked up in a schema that
-- another role may have put something into. transaction_timeout is there from Postgres 17 on.
-- $1 how long the transaction may idle, $2 how long a lock is waited for, both in milliseconds
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true), pg_catalog.set_config('lock_timeout', $2, true),
    pg_catalog.set_config('statement_timeout', '0', true),
    CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
        THEN pg_catalog.set_config('transaction_timeout', '0', true) END,
    pg_catalog.set_config('enable_hashjoin', 'off', true), pg_catalog.set_config('enable_mergejoin', 'off', true),
    CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
        THEN pg_catalog.set_config('synchronous_commit', 'on', true) END
