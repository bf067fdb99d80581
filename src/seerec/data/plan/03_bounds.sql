-- The two instants of a chronological split: as given, or such that the latest shares of the clicks are test and validation.
CREATE TABLE bounds AS
WITH ordered AS (
    SELECT time, row_number() OVER (ORDER BY time) AS place, count(*) OVER () AS total
    FROM shown
    WHERE clicked
),
test AS (
    SELECT coalesce(s.test_start, min(o.time)) AS test_start
    FROM settings AS s
    LEFT JOIN ordered AS o ON o.place > o.total - o.total * s.test_fraction
    WHERE s.split = 'chronological'
    GROUP BY s.test_start
),
earlier AS (
    SELECT count(*) AS total
    FROM ordered
    WHERE time < (SELECT test_start FROM test)
)
SELECT coalesce(s.val_start, min(o.time)) AS val_start, t.test_start
FROM settings AS s
CROSS JOIN test AS t
CROSS JOIN earlier AS e
LEFT JOIN ordered AS o ON o.place > e.total - o.total * s.val_fraction AND o.time < t.test_start
GROUP BY s.val_start, t.test_start;
