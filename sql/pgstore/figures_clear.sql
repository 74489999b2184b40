-- Forgets the figures of a day.
-- $1 day
WITH hours AS (
    DELETE FROM spendflush.figure_hour WHERE day = $1::date
), days AS (
    DELETE FROM spendflush.figure WHERE day = $1::date
)
DELETE FROM spendflush.figure_days WHERE day = $1::date
