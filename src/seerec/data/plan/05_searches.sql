-- Every search, given to its owner. A search counts from its last row on, so that no click of it is seen before it happened;
-- cut: its first row, from which on nothing is history of it. clicked: whether any of its items was.
CREATE TABLE posed AS
SELECT
    o.row_id, s.user_id, s.search_id,
    max(s.timestamp) AS time,
    min(s.timestamp) AS cut,
    min(s.line) AS line,
    coalesce(min(s.query), '') AS query,
    max(s.relevant) AS relevant,
    max(CASE WHEN s.item_id IS NOT NULL AND s.clicked THEN 1 ELSE 0 END) AS clicked,
    CASE WHEN min(t.time) IS NULL OR max(s.timestamp) < min(t.time) THEN 1 ELSE 0 END AS training
FROM searches AS s
JOIN search_owner AS o ON o.user_id = s.user_id
JOIN training_end AS t ON t.row_id = o.row_id
GROUP BY o.row_id, s.user_id, s.search_id;

-- The searches that stay.
CREATE TABLE search AS
SELECT p.row_id, p.user_id, p.search_id, p.time, p.cut, p.line, p.query, p.relevant, p.clicked, p.training
FROM posed AS p
CROSS JOIN settings AS o
WHERE p.clicked = 1 OR o.zero_click <> 'drop';

-- Items of a search in the order of their times: the clicked ones, each once; without any, perhaps the first that was shown (clicked = 0).
CREATE TABLE search_click AS
WITH shown AS (
    SELECT
        s.user_id, s.search_id, s.item_id, s.timestamp AS time, s.line,
        row_number() OVER (PARTITION BY s.user_id, s.search_id ORDER BY s.timestamp, s.line) AS place
    FROM searches AS s
    JOIN search AS w ON w.user_id = s.user_id AND w.search_id = s.search_id
    CROSS JOIN settings AS o
    WHERE o.zero_click = 'first-shown' AND w.clicked = 0 AND s.item_id IS NOT NULL
)
SELECT s.user_id, s.search_id, s.item_id, 1 AS clicked, min(s.timestamp) AS time, min(s.line) AS line
FROM searches AS s
JOIN search_owner AS o ON o.user_id = s.user_id
WHERE s.item_id IS NOT NULL AND s.clicked
GROUP BY s.user_id, s.search_id, s.item_id
UNION ALL
SELECT user_id, search_id, item_id, 0 AS clicked, time, line
FROM shown
WHERE place = 1;
