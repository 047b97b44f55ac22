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
-- The beginning is for the most frequent case, in which the script takes half as long: a register that is there, stays
-- in use, and gets a version from a clock that has not stepped back. It needs no floor, since it remembers its
-- version itself until it becomes idle.
if ARGV[4] == '' then
  local found = redis.pcall('HMGET', KEYS[1], 'version', 'value')
  if found[2] and found[1] == ARGV[1] then
    local time = redis.call('TIME')
    local next = time[1] * 1000000 + time[2]
    if next > tonumber(found[1]) and next < 4503599627370496 then
      local version = string.format('%.0f', next)
      redis.call('PERSIST', KEYS[1])
      redis.call('HSET', KEYS[1], 'version', version, 'value', ARGV[2])
      if ARGV[3] ~= '' then
        redis.pcall('PUBLISH', ARGV[3], ARGV[5])
      end
      return {'1', version}
    end
  end
end

