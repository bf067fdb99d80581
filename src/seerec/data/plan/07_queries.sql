-- Distinct query texts and how many training searches used each.
CREATE TABLE query_text AS
SELECT query, CAST(sum(training) AS BIGINT) AS uses
FROM search
GROUP BY query;
