-- What holds for one transaction, whatever the role or the server is set to. Batches are forgotten once they are
-- committed, so a commit must be on disk. A client that stops with the transaction open must not keep the others from
-- these rows for long. An update of known rows looks each of them up in the index, whatever the planner believes that
-- reading the whole table costs.
-- $1 how long the transaction may idle, $2 how long a lock is waited for, both in milliseconds
SELECT set_config('idle_in_transaction_session_timeout', $1, true), set_config('lock_timeout', $2, true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
