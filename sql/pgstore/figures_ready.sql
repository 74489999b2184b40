-- The days whose figures hold, and the kinds that have hours on them.
-- $1 first and $2 last day
{{held}}
    AND d.day BETWEEN $1::date AND $2::date
