-- Searches with their part of the split and what they may see, and their clicks as targets of the search task: role is the part,
-- or 0 for an item that its user had clicked before, where repeats are dropped.
CREATE TABLE search_seen AS
WITH test AS (
    SELECT c.row_id, coalesce(max(b.test_start), min(CASE WHEN c.part = 3 THEN c.cut END)) AS time
    FROM click AS c
    LEFT JOIN bounds AS b ON 1 = 1
    GROUP BY c.row_id
)
SELECT
    e.row_id, e.n, e.time, e.cut, e.query, e.relevant, e.training, s.recs, s.searches,
    CASE WHEN e.training = 1 THEN 1 WHEN t.time IS NULL OR e.time < t.time THEN 2 ELSE 3 END AS part
FROM search_event AS e
JOIN seen AS s ON s.row_id = e.row_id AND s.n = e.n AND s.task = 1
JOIN test AS t ON t.row_id = e.row_id;

CREATE TABLE search_target AS
WITH recommended AS (
    SELECT row_id, item, min(time) AS time FROM fate GROUP BY row_id, item
),
searched AS (
    SELECT row_id, item, min(time) AS time FROM search_event_click GROUP BY row_id, item
)
SELECT
    c.row_id, c.n, c.place, c.item,
    CASE WHEN o.repeats = 'drop' AND (r.time < s.cut OR q.time < s.cut) THEN 0 ELSE s.part END AS role
FROM search_event_click AS c
JOIN search_seen AS s ON s.row_id = c.row_id AND s.n = c.n
JOIN searched AS q ON q.row_id = c.row_id AND q.item = c.item
LEFT JOIN recommended AS r ON r.row_id = c.row_id AND r.item = c.item
CROSS JOIN settings AS o;

DROP TABLE seen;
