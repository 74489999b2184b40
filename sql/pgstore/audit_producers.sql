-- What producers sealed and is neither booked nor taken out as a repeat or a conflict, against the batches that were skipped: those that are lost, of which only the sums
-- over all of them are known, and those whose bytes are in quarantine, which say what they count. One row: the time; lost
-- batches, their updates and amount; batches in quarantine, how many of these were dropped, their updates and amount; the
-- places where this doesn't come out even, and the first one; open entries of the quarantine; how many producers were cloned
-- or put back, and were moved over a gap.
-- $1 the largest amount of one update
WITH copies AS (
    -- Two copies of a batch that differ have been seen: a restored machine. Then the sums lie between theirs.
    SELECT producer, shard, sequence, bool_or(state = 'open') AS open, bool_and(unclaimed) AS unclaimed,
        coalesce(min(updates) FILTER (WHERE NOT unclaimed), 0) AS least_updates,
        coalesce(max(updates) FILTER (WHERE NOT unclaimed), 0) AS most_updates,
        coalesce(min(spend) FILTER (WHERE NOT unclaimed), 0) AS least,
        coalesce(max(spend) FILTER (WHERE NOT unclaimed), 0) AS most
    FROM spendflush.quarantine
    WHERE kind = 'batch' AND state <> 'applied' AND producer IS NOT NULL
    GROUP BY producer, shard, sequence
), passed AS (
    -- Where the mark was pruned, the sums of all such producers stand together.
    SELECT p.producer, l.shard,
        sum(l.last_sequence - l.first_sequence + 1) FILTER (WHERE NOT l.quarantined OR c.unclaimed) AS lost, -- another batch has the place of an unclaimed one
        count(*) FILTER (WHERE l.quarantined AND NOT c.unclaimed) AS aside,
        count(*) FILTER (WHERE l.quarantined AND NOT c.unclaimed AND NOT c.open) AS dropped,
        count(*) FILTER (WHERE l.quarantined AND c.producer IS NULL) AS gone,
        coalesce(sum(c.least_updates), 0) AS least_updates, coalesce(sum(c.most_updates), 0) AS most_updates,
        coalesce(sum(c.least), 0) AS least, coalesce(sum(c.most), 0) AS most
    FROM spendflush.lost_batches l
    LEFT JOIN spendflush.producers p ON p.producer = l.producer AND p.shard = l.shard
    LEFT JOIN copies c ON l.quarantined AND c.producer = l.producer AND c.shard = l.shard AND c.sequence = l.first_sequence
    WHERE l.found_at IS NULL
    GROUP BY p.producer, l.shard
), parts AS (
    SELECT producer, shard, sealed_updates::numeric - updates - duplicate_updates - conflict_updates AS updates,
        sealed_amount - amount - duplicate_amount - conflict_amount AS amount,
        0 AS lost, 0 AS aside, 0 AS dropped, 0 AS gone, 0 AS least_updates, 0 AS most_updates, 0 AS least, 0 AS most
    FROM spendflush.producers
    UNION ALL
    SELECT NULL, shard, sealed_updates::numeric - updates - duplicate_updates - conflict_updates,
        sealed_amount - amount - duplicate_amount - conflict_amount, 0, 0, 0, 0, 0, 0, 0, 0
    FROM spendflush.pruned_marks
    UNION ALL
    SELECT producer, shard, 0, 0, coalesce(lost, 0), aside, dropped, gone, least_updates, most_updates, least, most
    FROM passed
), places AS (
    -- The pruned marks of a shard are one place: there, producer is NULL.
    SELECT producer, shard, sum(updates) AS updates, sum(amount) AS amount, sum(lost) AS lost, sum(aside) AS aside,
        sum(dropped) AS dropped, sum(gone) AS gone, sum(least_updates) AS least_updates, sum(most_updates) AS most_updates,
        sum(least) AS least, sum(most) AS most
    FROM parts
    GROUP BY producer, shard
), judged AS (
    SELECT *, gone > 0 OR CASE
        WHEN lost = 0 THEN NOT (updates BETWEEN least_updates AND most_updates AND amount BETWEEN least AND most)
        -- A lost batch has an update at least, and no update costs more than it may.
        ELSE NOT (updates - least_updates >= lost
            AND amount - most <= (updates - least_updates) * $1::text::numeric
            AND amount - least >= (updates - least_updates) * -$1::text::numeric)
    END AS odd
    FROM places
)
SELECT now(), least(coalesce(sum(lost), 0), 9223372036854775807)::bigint,
    least(greatest(coalesce(sum(updates - least_updates), 0), -9223372036854775808), 9223372036854775807)::bigint,
    coalesce(sum(amount - least), 0)::text,
    coalesce(sum(aside), 0)::bigint, coalesce(sum(dropped), 0)::bigint,
    least(coalesce(sum(least_updates), 0), 9223372036854775807)::bigint, coalesce(sum(least), 0)::text,
    count(*) FILTER (WHERE odd),
    coalesce(min(coalesce('producer ' || producer::text, 'the pruned marks') || ' in shard ' || shard) FILTER (WHERE odd), ''),
    (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT count(*) FROM (
        SELECT FROM spendflush.lost_batches l
        JOIN spendflush.quarantine q ON q.kind = 'batch' AND q.unclaimed AND q.producer = l.producer AND q.shard = l.shard
        WHERE NOT l.quarantined
        GROUP BY l.producer, l.shard
    ) AS c)
FROM judged
