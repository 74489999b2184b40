-- The sums of all books, each as its place, its book and its counters. 'producers' knows only requests and amounts.
SELECT place, book, trim_scale(spend)::text, successful_requests::text, failed_requests::text, prompt_tokens::text,
    completion_tokens::text, cache_read_input_tokens::text, cache_creation_input_tokens::text
FROM (
    SELECT 'control' AS place, book, sum(spend) AS spend, sum(successful_requests) AS successful_requests,
        sum(failed_requests) AS failed_requests, sum(prompt_tokens) AS prompt_tokens,
        sum(completion_tokens) AS completion_tokens, sum(cache_read_input_tokens) AS cache_read_input_tokens,
        sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM spendflush.control
    GROUP BY book
    UNION ALL
    SELECT 'quarantine', book, sum(spend), sum(successful_requests), sum(failed_requests), sum(prompt_tokens),
        sum(completion_tokens), sum(cache_read_input_tokens), sum(cache_creation_input_tokens)
    FROM spendflush.quarantine
    WHERE kind = 'row' AND state <> 'applied'
    GROUP BY book
    UNION ALL
    SELECT 'rows', coalesce(e.entity_type, 'unknown'), sum(spend), sum(successful_requests), sum(failed_requests),
        sum(prompt_tokens), sum(completion_tokens), sum(cache_read_input_tokens), sum(cache_creation_input_tokens)
    FROM spendflush.total t
    LEFT JOIN spendflush.entity e ON e.key = t.entity
    GROUP BY e.entity_type
    UNION ALL
    SELECT 'rows', 'rollup', coalesce(sum(spend), 0), coalesce(sum(successful_requests), 0), coalesce(sum(failed_requests), 0),
        coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cache_read_input_tokens), 0),
        coalesce(sum(cache_creation_input_tokens), 0)
    FROM spendflush.rollup
) AS sums
