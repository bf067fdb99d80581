-- Searches with what they may see, and their clicks as targets of the search task. role is the part of the split, or 0 for an
-- item that was only shown and, where repeats are dropped, one that its user had clicked before. Parts are by time; with
-- leave-one-out a user's last clicked search after training is test, and those between are validation.
CREATE TABLE search_seen AS
SELECT e.row_id, e.n, e.time, e.cut, e.query, e.relevant, e.training, s.recs, s.searches
FROM search_event AS e
JOIN seen AS s ON s.row_id = e.row_id AND s.n = e.n AND s.task = 1;

CREATE TABLE search_part AS
WITH clicked AS (
    SELECT DISTINCT row_id, n FROM search_event_click WHERE clicked = 1
)
SELECT
    s.row_id, s.n, s.cut,
    CASE
        WHEN s.training = 1 THEN 1
        WHEN b.test_start IS NOT NULL AND s.time >= b.test_start THEN 3
        WHEN b.test_start IS NULL AND row_number() OVER (PARTITION BY s.row_id ORDER BY s.n DESC) = 1 THEN 3
        ELSE 2
    END AS part
FROM search_seen AS s
JOIN clicked AS c ON c.row_id = s.row_id AND c.n = s.n
LEFT JOIN bounds AS b ON 1 = 1;

CREATE TABLE search_target AS
WITH recommended AS (
    SELECT row_id, item, min(time) AS time FROM fate GROUP BY row_id, item
),
searched AS (
    SELECT row_id, item, min(time) AS time FROM search_event_click GROUP BY row_id, item
)
SELECT
    c.row_id, c.n, c.place, c.item,
    CASE
        WHEN s.part IS NULL OR c.clicked = 0 THEN 0
        WHEN o.repeats = 'drop' AND (r.time < s.cut OR q.time < s.cut) THEN 0
        ELSE s.part
    END AS role
FROM search_event_click AS c
LEFT JOIN search_part AS s ON s.row_id = c.row_id AND s.n = c.n
JOIN searched AS q ON q.row_id = c.row_id AND q.item = c.item
LEFT JOIN recommended AS r ON r.row_id = c.row_id AND r.item = c.item
CROSS JOIN settings AS o;

DROP TABLE seen;
