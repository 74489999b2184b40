-- Keeps the marks of living producers from being pruned, and sums up those that were neither moved nor touched for too
-- long. A producer without anything in the books gets a row of its own once it is old, unless its mark may be among
-- those that were pruned: it must not look as if it were new. Answers how many were pruned.
--
-- The earlier of this server's clock and the caller's decides, and nothing is pruned while the two differ by more than
-- an hour. The horizon moves to just behind the birth of the youngest producer pruned, and no further. When a mark was
-- seen goes back only then, too: it is in the future where this server's clock was ahead, and must be neither kept for so
-- long nor, by a clock that is behind, be made to look idle.
--
-- Both clocks may be of one machine and jump together. So nothing is pruned either unless a mark of the caller's shows
-- that this clock ran on: it was made two hours ago at least, and was not idle itself. After a jump the first call only
-- touches its marks, and until the next one all other instances have done so too.
-- $1 the living producers, $2 their shards, $3 the caller's time, $4 how long a mark may be idle
WITH clock AS (
    SELECT least(now(), $3::timestamptz) AS earlier, abs(extract(epoch FROM now() - $3::timestamptz)) < 3600 AS trusted
), at AS (
    SELECT trusted, earlier, earlier - $4::interval AS idle,
        -- Identities are UUIDv7: they begin with the time they were made at, in milliseconds.
        (lpad(to_hex((extract(epoch FROM earlier - $4::interval) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS oldest,
        (lpad(to_hex((extract(epoch FROM earlier - $4::interval / 4) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS old
    FROM clock
), veteran AS (
    SELECT EXISTS (
        SELECT FROM at, spendflush.producers k
        JOIN unnest($1::uuid[], $2::smallint[]) AS l (producer, shard) ON l.producer = k.producer AND l.shard = k.shard
        WHERE k.first_seen < at.earlier - interval '2 hours' AND k.seen_at > at.earlier - $4::interval / 2
    ) AS known
), pruned AS (
    -- Producers born before this one may have had marks that were pruned.
    SELECT (lpad(to_hex((extract(epoch FROM max(horizon)) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS before
    FROM spendflush.pruned_marks
    WHERE horizon > 'epoch'
), touched AS (
    INSERT INTO spendflush.producers AS p (producer, shard, first_seen, claimed_from, sequence, claims, updates, seen_at, amount,
        sealed_updates, sealed_amount, prior_digest, digest, recent)
    SELECT l.producer, l.shard, now(), 1, 0, 1, 0, now(), 0, 0, 0, '00000000-0000-0000-0000-000000000000',
        '00000000-0000-0000-0000-000000000000', ''
    FROM at, pruned, unnest($1::uuid[], $2::smallint[]) AS l (producer, shard)
    WHERE l.producer < at.old
        AND (pruned.before IS NULL OR l.producer >= pruned.before
            OR EXISTS (SELECT FROM spendflush.producers k WHERE k.producer = l.producer AND k.shard = l.shard))
    ORDER BY l.producer, l.shard
    ON CONFLICT (producer, shard) DO UPDATE SET seen_at = now()
    WHERE p.seen_at < now() - $4::interval / 4
        OR p.seen_at > now() + interval '1 hour' AND (SELECT trusted FROM at)
), corrected AS (
    UPDATE spendflush.producers p SET seen_at = now()
    FROM at
    WHERE at.trusted AND p.seen_at > now() + interval '1 hour' AND p.producer <> ALL ($1::uuid[])
), gone AS (
    DELETE FROM spendflush.producers p
    USING at, veteran
    WHERE at.trusted AND veteran.known AND p.seen_at < at.idle AND p.producer < at.oldest AND p.producer <> ALL ($1::uuid[])
    RETURNING p.producer, p.shard, p.updates, p.amount, p.sealed_updates, p.sealed_amount,
        p.duplicate_updates, p.duplicate_amount, p.conflict_updates, p.conflict_amount
), kept AS (
    INSERT INTO spendflush.pruned_marks AS p (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount,
        duplicate_updates, duplicate_amount, conflict_updates, conflict_amount)
    SELECT g.shard, count(*),
        to_timestamp(max(('x' || left(replace(g.producer::text, '-', ''), 12))::bit(48)::bigint + 1) / 1000.0),
        sum(g.updates), sum(g.amount), sum(g.sealed_updates), sum(g.sealed_amount),
        sum(g.duplicate_updates), sum(g.duplicate_amount), sum(g.conflict_updates), sum(g.conflict_amount)
    FROM gone g
    GROUP BY g.shard
    ORDER BY g.shard
    ON CONFLICT (shard) DO UPDATE SET
        marks = p.marks + excluded.marks,
        horizon = greatest(p.horizon, excluded.horizon),
        updates = p.updates + excluded.updates,
        amount = p.amount + excluded.amount,
        sealed_updates = p.sealed_updates + excluded.sealed_updates,
        sealed_amount = p.sealed_amount + excluded.sealed_amount,
        duplicate_updates = p.duplicate_updates + excluded.duplicate_updates,
        duplicate_amount = p.duplicate_amount + excluded.duplicate_amount,
        conflict_updates = p.conflict_updates + excluded.conflict_updates,
        conflict_amount = p.conflict_amount + excluded.conflict_amount
)
SELECT count(*) FROM gone
