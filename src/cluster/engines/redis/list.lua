-- Reads a page of the names that match a pattern. A script, so that in a Redis Cluster the server that has
-- the slot answers.
--
-- KEYS[1]  a name of the slot at which there is nothing: while the slot moves, the server answers ASK, and
--          no page lacks the names that have moved
-- ARGV[1]  the cursor
-- ARGV[2]  the pattern
--
-- Answers {next cursor, names}.
return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', 1000)
