-- Adds to the observed time what has gone by since the last tick, two minutes at most. It holds off all others that tend ids.
UPDATE spendflush.id_clock SET
    observed = observed + least(greatest(now() - ticked_at, interval '0'), interval '2 minutes'),
    ticked_at = now()
