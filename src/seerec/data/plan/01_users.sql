-- The users that stay, numbered in the order of their id text: row 0, 1, 2, ...
CREATE TABLE kept_user AS
SELECT user_id, CAST(row_number() OVER (ORDER BY user_id) - 1 AS INTEGER) AS row_id
FROM recommendations
WHERE clicked
GROUP BY user_id
HAVING count(*) >= (SELECT min_user_clicks FROM settings);
