-- What a register and a floor are. This is the beginning of the scripts that read one.
--
-- A read returns nil and an error if something else is there, which is left as it is.

local function foreign(name)
  return nil, redis.error_reply('LOCKWORD something else has written ' .. name ..
    ': delete it, or use another prefix')
end

local function is_version(text)
  return #text <= 16 and string.find(text, '^[1-9]%d*$') and tonumber(text) < 4503599627370496
end

local function look(command, name, ...)
  local found = redis.pcall(command, name, ...)
  if type(found) == 'table' and found.err then
    -- Redis 6.2 puts the code anywhere into the text.
    if string.find(found.err, 'WRONGTYPE', 1, true) then
      return foreign(name)
    end
    return nil, found
  end
  return found
end

-- The version and the value, or false if there is no register.
local function read_register(name)
  local found, refused = look('HMGET', name, 'version', 'value')
  if refused then
    return nil, refused
  end
  local version, value = found[1], found[2]
  if not version and not value then
    -- Nothing is there, or a hash without these fields, which GET refuses.
    local _, other = look('GET', name)
    if other then
      return nil, other
    end
    return false
  end
  if not version or not value or not is_version(version) then
    return foreign(name)
  end
  return version, value
end

-- The floor, which is no smaller than any version that any register of its prefix ever had, and its name;
-- '0' if there is none.
--
-- While a slot moves from one server of a Redis Cluster to another, the register and the floor may be at
-- different ones. Then the script has the register as its only key, and two arguments more: the name of the
-- floor, and the floor if it is known to be elsewhere. Without a floor here the answer is that argument
-- ('' if the floor is not known), and no name.
local function read_floor()
  local is_moving = not KEYS[2]
  local name = KEYS[2] or ARGV[#ARGV - 1]
  local floor, refused = look('GET', name)
  if refused then
    if not is_moving or not string.find(refused.err, 'non local key', 1, true) then
      return nil, refused
    end
    floor = false
  end
  if floor and not is_version(floor) then
    return foreign(name)
  end
  if is_moving and not floor then
    local elsewhere = ARGV[#ARGV]
    if elsewhere ~= '' and not is_version(elsewhere) then
      return foreign(name)
    end
    return elsewhere
  end
  return floor or '0', name
end

local function floor_is_elsewhere()
  return redis.error_reply('TRYAGAIN the largest version is at another server as long as its slot moves')
end
