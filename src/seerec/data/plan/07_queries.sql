-- Distinct query texts (always one empty text) and how many training searches used each.
CREATE TABLE query_text AS
WITH used AS (
    SELECT query, training FROM search
    UNION ALL
    SELECT '' AS query, 0 AS training
)
SELECT query, CAST(sum(training) AS BIGINT) AS uses
FROM used
GROUP BY query;
