-- $1 is the token, $2 what to write, $3 which row. It changes one row, or none: then the token is
-- too old, or there is no such row.
UPDATE accounts SET balance = $2, fence = $1 WHERE id = $3 AND fence <= $1
