-- The item vocabulary: enough training clicks in the two logs together, numbered in the order of their id text.
-- clicks: training clicks in the recommendation log. pool: shown as a recommendation before the training split ends.
CREATE TABLE item AS
WITH clicked AS (
    SELECT item_id, 1 AS recommended FROM click WHERE part = 1
    UNION ALL
    SELECT c.item_id, 0 AS recommended
    FROM search_click AS c
    JOIN search AS s ON s.user_id = c.user_id AND s.search_id = c.search_id
    WHERE s.training = 1
),
known AS (
    SELECT item_id, sum(recommended) AS clicks
    FROM clicked
    GROUP BY item_id
    HAVING count(*) >= (SELECT min_item_clicks FROM settings)
),
pooled AS (
    SELECT DISTINCT s.item_id
    FROM shown AS s
    JOIN training_end AS t ON t.row_id = s.row_id
    WHERE NOT s.clicked AND (t.time IS NULL OR s.time < t.time)
)
SELECT
    CAST(row_number() OVER (ORDER BY k.item_id) + 1 AS INTEGER) AS item,
    k.item_id,
    CAST(k.clicks AS BIGINT) AS clicks,
    CASE WHEN k.clicks > 0 OR p.item_id IS NOT NULL THEN 1 ELSE 0 END AS pool
FROM known AS k
LEFT JOIN pooled AS p ON p.item_id = k.item_id;

DROP TABLE shown;
