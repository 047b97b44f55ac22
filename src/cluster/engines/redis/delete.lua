-- Removes a register, and sees to it that none of the same name ever gets a version as small.
--
-- KEYS[1]  the register
-- KEYS[2]  the floor
--
-- Answers 1 if there was a register, else 0.
local last = tonumber(redis.call('HGET', KEYS[1], 'version') or '0') or 0
local floor = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if last > floor then
  redis.call('SET', KEYS[2], string.format('%.0f', last))
end
return redis.call('DEL', KEYS[1])
