-- Notes that the figures of a day are made.
-- $1 day, $2 the fingerprint that they hold for, which was read before the rows, $3 kinds that have hours
INSERT INTO spendflush.figure_days (day, fingerprint, made_at, hourly) VALUES ($1::date, $2::numeric, now(), $3::smallint[])
