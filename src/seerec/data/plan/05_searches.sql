-- One row per search, given to its owner. A search counts from its last row on, so that no click of it is seen before it happened;
-- cut: its first row, from which on nothing is history of it.
CREATE TABLE search AS
SELECT
    o.row_id, s.user_id, s.search_id,
    max(s.timestamp) AS time,
    min(s.timestamp) AS cut,
    min(s.line) AS line,
    coalesce(min(s.query), '') AS query,
    max(s.relevant) AS relevant,
    CASE WHEN min(t.time) IS NULL OR max(s.timestamp) < min(t.time) THEN 1 ELSE 0 END AS training
FROM searches AS s
JOIN search_owner AS o ON o.user_id = s.user_id
JOIN training_end AS t ON t.row_id = o.row_id
GROUP BY o.row_id, s.user_id, s.search_id;

-- Clicked items of a search, each once, in the order of the first click.
CREATE TABLE search_click AS
SELECT s.user_id, s.search_id, s.item_id, min(s.timestamp) AS time, min(s.line) AS line
FROM searches AS s
JOIN search_owner AS o ON o.user_id = s.user_id
WHERE s.item_id IS NOT NULL
GROUP BY s.user_id, s.search_id, s.item_id;
