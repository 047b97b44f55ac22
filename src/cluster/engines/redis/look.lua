-- What a version is, and what else may be there. This is the beginning of the scripts that read one.
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

