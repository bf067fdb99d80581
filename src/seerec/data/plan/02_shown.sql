-- Every recommendation row of those users. cut: the first instant of its request; what happens from then on is no history of it.
CREATE TABLE shown AS
SELECT k.row_id, r.line, r.item_id, r.timestamp AS time, r.clicked, r.announced, r.timestamp AS cut
FROM recommendations AS r
JOIN kept_user AS k ON k.user_id = r.user_id
WHERE r.request_id IS NULL
UNION ALL
SELECT
    k.row_id, r.line, r.item_id, r.timestamp AS time, r.clicked, r.announced,
    min(r.timestamp) OVER (PARTITION BY k.row_id, r.request_id) AS cut
FROM recommendations AS r
JOIN kept_user AS k ON k.user_id = r.user_id
WHERE r.request_id IS NOT NULL;
