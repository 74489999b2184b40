-- Tries to take the lock for this transaction. All settings are the transaction's own.
--
-- $1 number of the lock (bigint); $2 application_name that shows the owner (text); $3 TTL in milliseconds (text)
--
-- transaction_timeout, which newer servers know, would end a lock however often it is renewed.
SELECT pg_catalog.pg_try_advisory_xact_lock($1::bigint)
FROM (
    SELECT pg_catalog.set_config('application_name', $2::text, true),
           pg_catalog.set_config('idle_in_transaction_session_timeout', $3::text, true),
           CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
                THEN pg_catalog.set_config('transaction_timeout', '0', true) END
    OFFSET 0
) AS settings
