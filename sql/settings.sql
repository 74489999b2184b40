-- What holds for one transaction, whatever the role or the server is set to. Batches are forgotten once they are
-- committed, so a commit must be on disk. A client that stops with the transaction open must not keep the others from
-- these rows for long.
-- $1 how long the transaction may idle, $2 how long a lock is waited for, both in milliseconds
SELECT set_config('idle_in_transaction_session_timeout', $1, true), set_config('lock_timeout', $2, true),
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
