-- Removes a register, and sees to it that none of the same name ever gets a version as small.
--
-- KEYS[1]  the register
-- ARGV[1] to ARGV[4]: see read.lua.
--
-- Answers 1 if there was a register, else 0.
local version, refused = read_register(KEYS[1])
if version == nil then
  return refused
end
local floor, floor_name = read_floor()
if floor == nil then
  return floor_name
end
if not floor_name then
  return floor_is_elsewhere()
end
if version and tonumber(version) > tonumber(floor) then
  redis.call('SET', floor_name, version)
end
return redis.call('DEL', KEYS[1])
