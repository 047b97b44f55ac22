-- Reads a register. A plain HMGET would send all of what a stranger has put in its place.
--
-- KEYS[1]  the register: a hash with the fields `version` and `value`
--
-- Answers {version, value}, with a null for what is not there.
local found = redis.call('HMGET', KEYS[1], 'version', 'value')
-- A version has 16 digits at most, and no node writes more than 1 MiB. One byte more of each is enough to
-- refuse it.
return {
  found[1] and string.sub(found[1], 1, 17),
  found[2] and string.sub(found[2], 1, 1048577),
}
