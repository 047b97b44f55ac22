-- Writes a register if its version is the expected one.
--
-- KEYS[1]  the register: a hash with the fields `version` and `value`
-- ARGV[1]  the expected version, or '' if there is to be no register
-- ARGV[2]  the new value
-- ARGV[3]  the channel on which the change is announced, or '' for none
-- ARGV[4]  seconds after which the register may go, or '' if it must stay
-- ARGV[5]  what is said there
-- ARGV[6] to ARGV[9]: see read.lua.
--
-- Answers {'1', version} if it wrote; {'0', version, value} or {'0'} if it did not.
--
-- Everything that can be refused comes before the register is written, so that an error says that it
-- was not written. Redis refuses a script for want of memory, or because the server is a replica, at
-- the first command that writes.
local found, value = read_register(KEYS[1])
if found == nil then
  return value
end
if (found or '') ~= ARGV[1] then
  if not found then
    return {'0'}
  end
  -- No node writes more than 1 MiB. One byte more is enough to refuse it.
  return {'0', found, string.sub(value, 1, 1048577)}
end

-- Larger than all before it, also if the clock stepped back, also if the register was gone for a
-- while: only the floor remembers then. Versions are whole numbers below 2^52, which Lua's numbers
-- hold exactly; only its own way of printing them does not.
local floor, floor_name = read_floor()
if floor == nil then
  return floor_name
end
if not found and floor == '' then
  return floor_is_elsewhere()
end
local time = redis.call('TIME')
local next = math.max(
  tonumber(found or '0') + 1, (tonumber(floor) or 0) + 1, time[1] * 1000000 + time[2])
if next >= 4503599627370496 then
  return redis.error_reply('LOCKWORD no version is left: is the clock of the server right?')
end
local version = string.format('%.0f', next)

if floor_name then
  redis.call('SET', floor_name, version)
end
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version, 'value', ARGV[2])

-- It is written. What is refused now changes nothing about that. A register whose version is not in the
-- floor stays, since it alone remembers it.
if ARGV[4] ~= '' and floor_name then
  redis.pcall('EXPIRE', KEYS[1], ARGV[4])
end
if ARGV[3] ~= '' then
  redis.pcall('PUBLISH', ARGV[3], ARGV[5])
end
return {'1', version}
