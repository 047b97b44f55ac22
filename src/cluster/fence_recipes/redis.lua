-- KEYS[1] is a hash with the fields `fence` and `value`, ARGV[1] the token, ARGV[2] the new value.
-- Returns 1 if it has written, and 0 if the token is too old.
--
-- Lua's numbers are exact up to 2^53, and tokens are larger: so this compares them as decimal text.
local stored, token = redis.call('HGET', KEYS[1], 'fence'), ARGV[1]
if stored and (#stored > #token or #stored == #token and stored > token) then
  return 0
end
redis.call('HSET', KEYS[1], 'fence', token, 'value', ARGV[2])
return 1
