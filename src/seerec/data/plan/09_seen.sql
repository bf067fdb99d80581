-- How many events a click, or a search, may see: events and cuts in one order, a cut before the events of the same instant.
CREATE TABLE seen AS
WITH line_up AS (
    SELECT row_id, time, 1 AS after_cut, 1 AS rec, CAST(NULL AS INTEGER) AS search, CAST(NULL AS INTEGER) AS n, 0 AS task FROM rec_event
    UNION ALL
    SELECT row_id, time, 1, NULL, 1, NULL, 1 FROM search_event
    UNION ALL
    SELECT row_id, cut, 0, NULL, NULL, n, 0 FROM rec_event
    UNION ALL
    SELECT row_id, cut, 0, NULL, NULL, n, 1 FROM search_event
),
counted AS (
    SELECT
        row_id, n, task,
        count(rec) OVER (PARTITION BY row_id ORDER BY time, after_cut ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS recs,
        count(search) OVER (PARTITION BY row_id ORDER BY time, after_cut ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS searches
    FROM line_up
)
SELECT row_id, n, task, CAST(recs AS INTEGER) AS recs, CAST(searches AS INTEGER) AS searches
FROM counted
WHERE n IS NOT NULL;
