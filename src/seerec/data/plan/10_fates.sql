-- What becomes of each click: 0 a target, 1 outside the candidate pool, 2 a repeat, 3 nothing visible before it.
CREATE TABLE fate AS
WITH searched AS (
    SELECT row_id, item, min(time) AS time FROM search_event_click GROUP BY row_id, item
)
SELECT
    e.row_id, e.n, e.item, e.time, e.part, e.announced, s.recs, s.searches,
    CASE
        WHEN e.part > 1 AND e.pool = 0 THEN 1
        WHEN o.repeats = 'drop' AND (e.occurrence > 1 OR q.time < e.time) THEN 2
        WHEN s.recs = 0 AND s.searches = 0 THEN 3
        ELSE 0
    END AS fate
FROM rec_event AS e
JOIN seen AS s ON s.row_id = e.row_id AND s.n = e.n AND s.task = 0
LEFT JOIN searched AS q ON q.row_id = e.row_id AND q.item = e.item
CROSS JOIN settings AS o;

DROP TABLE rec_event;
