-- The events of the corpus; n numbers a row's events 0, 1, 2, ... by time, then line. Only known items take part.
CREATE TABLE rec_event AS
SELECT
    c.row_id, i.item, c.time, c.cut, c.part, c.announced, i.pool,
    CAST(row_number() OVER (PARTITION BY c.row_id ORDER BY c.time, c.line) - 1 AS INTEGER) AS n,
    row_number() OVER (PARTITION BY c.row_id, i.item ORDER BY c.time, c.line) AS occurrence
FROM click AS c
JOIN item AS i ON i.item_id = c.item_id;

CREATE TABLE known_search_click AS
SELECT c.user_id, c.search_id, i.item, c.clicked, c.time, c.line
FROM search_click AS c
JOIN item AS i ON i.item_id = c.item_id;

-- A search without a word and without a known click says nothing, and is left out.
CREATE TABLE search_event AS
WITH clicked AS (
    SELECT DISTINCT user_id, search_id FROM known_search_click
)
SELECT
    s.row_id, s.user_id, s.search_id, s.time, s.cut, s.relevant, s.training, q.query,
    CAST(row_number() OVER (PARTITION BY s.row_id ORDER BY s.time, s.line) - 1 AS INTEGER) AS n
FROM search AS s
JOIN query_word_count AS q ON q.text = s.query
LEFT JOIN clicked AS c ON c.user_id = s.user_id AND c.search_id = s.search_id
WHERE q.words > 0 OR c.search_id IS NOT NULL;

CREATE TABLE search_event_click AS
SELECT
    s.row_id, s.n, c.item, c.clicked, s.time,
    CAST(row_number() OVER (PARTITION BY s.row_id, s.n ORDER BY c.time, c.line) - 1 AS INTEGER) AS place
FROM search_event AS s
JOIN known_search_click AS c ON c.user_id = s.user_id AND c.search_id = s.search_id;

DROP TABLE search_click;
DROP TABLE known_search_click;
