-- Every recommendation row of those users. cut: the first instant of its request; what happens from then on is no history of it.
CREATE TABLE shown AS
SELECT
    k.row_id, r.line, r.item_id, r.timestamp AS time, r.clicked, r.announced,
    CASE
        WHEN r.request_id IS NULL THEN r.timestamp
        ELSE min(r.timestamp) OVER (PARTITION BY k.row_id, r.request_id)
    END AS cut
FROM recommendations AS r
JOIN kept_user AS k ON k.user_id = r.user_id;
