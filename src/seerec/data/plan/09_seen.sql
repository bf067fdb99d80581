-- How many events a click, or a search, may see: those strictly before its cut, counted at its own place in the order of times
-- or, where its cut is earlier, at a place of its own.
CREATE TABLE seen AS
WITH line_up AS (
    SELECT row_id, time, 1 AS rec, CAST(NULL AS INTEGER) AS search, CASE WHEN cut = time THEN n END AS n, 0 AS task FROM rec_event
    UNION ALL
    SELECT row_id, time, NULL, 1, CASE WHEN cut = time THEN n END, 1 FROM search_event
    UNION ALL
    SELECT row_id, cut, NULL, NULL, n, 0 FROM rec_event WHERE cut < time
    UNION ALL
    SELECT row_id, cut, NULL, NULL, n, 1 FROM search_event WHERE cut < time
),
counted AS (
    SELECT
        row_id, n, task,
        count(rec) OVER (PARTITION BY row_id ORDER BY time RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS recs,
        count(search) OVER (PARTITION BY row_id ORDER BY time RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS searches
    FROM line_up
)
SELECT row_id, n, task, CAST(recs AS INTEGER) AS recs, CAST(searches AS INTEGER) AS searches
FROM counted
WHERE n IS NOT NULL;
