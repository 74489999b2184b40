-- Retires parts whose youngest id is older than the window, and has the next part take ids once the current one has done so for a
-- quarter of it, if that is empty. Answers how many parts have changed. It comes after fact_tick.
-- $1 the window
WITH clock AS (
    SELECT observed FROM spendflush.id_clock
), current AS (
    SELECT p.part, ((p.part + 1) % 6)::smallint AS next
    FROM clock, spendflush.id_parts p
    JOIN spendflush.id_parts n ON n.part = (p.part + 1) % 6
    WHERE p.state = 'current' AND p.opened <= clock.observed - $1::interval / 4 AND n.state = 'empty'
), retired AS (
    UPDATE spendflush.id_parts p SET state = 'retired'
    FROM clock
    WHERE p.state = 'full' AND p.closed <= clock.observed - $1::interval
    RETURNING p.part
), closed AS (
    UPDATE spendflush.id_parts p SET state = 'full', closed = clock.observed
    FROM clock, current
    WHERE p.part = current.part
    RETURNING p.part
)
SELECT (SELECT count(*) FROM retired) + (SELECT count(*) FROM closed)
