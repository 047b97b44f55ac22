-- Removes a register, and sees to it that none of the same name ever gets a version as small.
--
-- KEYS[1]  the register
-- KEYS[2]  the floor
--
-- Answers 1 if there was a register, else 0.
local version, refused = read_register(KEYS[1])
if version == nil then
  return refused
end
local floor, foreign = read_floor(KEYS[2])
if foreign then
  return foreign
end
if version and tonumber(version) > tonumber(floor) then
  redis.call('SET', KEYS[2], version)
end
return redis.call('DEL', KEYS[1])
