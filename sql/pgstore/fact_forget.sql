-- Forgets what was taken out of batches that were committed more than an hour ago.
DELETE FROM spendflush.taken_out WHERE committed_at < now() - interval '1 hour' OR committed_at > now() + interval '1 hour'
