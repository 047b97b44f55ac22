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

-- The floor is no smaller than any version that any register of its prefix ever had: '0' if there is none.
local function read_floor(name)
  local floor, refused = look('GET', name)
  if refused then
    return nil, refused
  end
  if floor and not is_version(floor) then
    return foreign(name)
  end
  return floor or '0'
end
