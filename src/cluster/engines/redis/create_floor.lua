-- Makes a floor for a prefix, unless there is one. It begins with the floor above it, which is no smaller than any
-- version that a register of the prefix had.
--
-- Its keys are all that it needs: while the slot moves, it is refused.
--
-- KEYS[1]  the floors: a hash with a field for each prefix that has one, whose value is where it began
-- KEYS[2]  the floor
-- KEYS[3]  and more: those above it, the longest first, and the shared one last
-- ARGV[1]  the prefix
-- ARGV[2]  and more: those of the floors above it, but for the shared one
--
-- Answers 1.
local found, refused = look('HMGET', KEYS[1], unpack(ARGV))
if refused then
  return refused
end
if found[1] then
  return 1
end
local name, first = KEYS[#KEYS], '1'
for number = 2, #ARGV do
  if found[number] then
    name, first = KEYS[number + 1], found[number]
    break
  end
end
local floor, other = look('GET', name)
if other then
  return other
end
floor = floor or first
if not is_version(floor) then
  local _, why = foreign(name)
  return why
end
redis.call('SET', KEYS[2], floor)
redis.call('HSET', KEYS[1], ARGV[1], floor)
return 1
