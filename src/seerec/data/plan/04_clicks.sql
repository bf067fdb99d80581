-- Clicked recommendations and their part of the split: 1 training, 2 validation, 3 test.
CREATE TABLE click AS
WITH placed AS (
    SELECT
        row_id, line, item_id, time, cut, announced,
        row_number() OVER (PARTITION BY row_id ORDER BY time, line) AS place,
        count(*) OVER (PARTITION BY row_id) AS total
    FROM shown
    WHERE clicked
)
SELECT
    p.row_id, p.line, p.item_id, p.time, p.cut, p.announced,
    CASE
        WHEN b.test_start IS NOT NULL AND p.time >= b.test_start THEN 3
        WHEN b.test_start IS NOT NULL AND p.time >= b.val_start THEN 2
        WHEN b.test_start IS NOT NULL OR p.total < 3 OR p.place < p.total - 1 THEN 1
        WHEN p.place = p.total THEN 3
        ELSE 2
    END AS part
FROM placed AS p
LEFT JOIN bounds AS b ON 1 = 1;

-- Where the training split of a row ends (null: never).
CREATE TABLE training_end AS
SELECT k.row_id, coalesce(max(b.val_start), min(CASE WHEN c.part = 2 THEN c.cut END)) AS time
FROM kept_user AS k
JOIN click AS c ON c.row_id = k.row_id
LEFT JOIN bounds AS b ON 1 = 1
GROUP BY k.row_id;
