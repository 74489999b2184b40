-- Tries to take an advisory lock for the open transaction, and says for as long who has it. Answers whether it could.
-- $1 key, $2 name to show, $3 how long the transaction may idle, in milliseconds
SELECT pg_try_advisory_xact_lock($1::bigint)
FROM (SELECT set_config('application_name', $2, true), set_config('idle_in_transaction_session_timeout', $3, true),
    set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)) AS settings
