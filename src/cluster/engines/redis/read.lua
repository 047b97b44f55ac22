-- What a register and a floor are, after look.lua.

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

local function floor_is_elsewhere()
  return redis.error_reply('TRYAGAIN the largest version is at another server as long as its slot moves')
end

-- The name of the floor of the register: that of the longest prefix of its key that has one, and with which
-- version it began; else the shared one. A prefix ends with a slash.
local function find_floor()
  local shared, known = ARGV[#ARGV - 3], ARGV[#ARGV - 1]
  local key, prefixes = string.sub(KEYS[1], #shared - 3), {}
  for at in string.gmatch(key, '()/') do
    prefixes[#prefixes + 1] = string.sub(key, 1, at)
  end
  if #prefixes == 0 then
    return shared
  end
  local floors = shared .. 's'
  local found, refused = look('HMGET', floors, unpack(prefixes))
  if refused then
    return floors, nil, refused
  end
  for number = #prefixes, 1, -1 do
    if found[number] then
      return shared .. ':' .. prefixes[number], found[number]
    end
  end
  return known ~= '' and known or shared
end

-- The floor, which is no smaller than any version that any register for which it is ever had, and its name;
-- '0' if there is none.
--
-- The floors are no keys of the script, since its user may not have the right to all of them. Their names are in the
-- slot of the register. The last four arguments are the name of the shared floor, and three that are empty unless
-- the slot moves from one server of a Redis Cluster to another. Then the register and its floor may be at different
-- ones, and they are: that it moves; the name of the floor, if it is known; and the floor, if it is known to be
-- elsewhere. Without a floor here the answer is that argument ('' if the floor is not known), and no name.
local function read_floor()
  local is_moving, elsewhere = ARGV[#ARGV - 2] ~= '', ARGV[#ARGV]
  local name, first, refused = find_floor()
  local floor
  if not refused then
    floor, refused = look('GET', name)
  end
  if refused then
    local text = refused.err
    if string.find(text, 'NOPERM', 1, true) or string.find(text, "can't access at least one of the keys", 1, true) then
      return nil, redis.error_reply('NOPERM this user may not use ' .. name .. ', which a register of this key' ..
        ' needs: run what lockword grants prints, or make a floor for the prefix that is granted, by create_floor()')
    end
    if not string.find(text, 'non local key', 1, true) then
      return nil, refused
    end
    if not is_moving then
      return nil, floor_is_elsewhere()
    end
    floor = false
  end
  if floor and not is_version(floor) then
    return foreign(name)
  end
  if is_moving and not floor then
    if elsewhere ~= '' and not is_version(elsewhere) then
      return foreign(name)
    end
    return elsewhere
  end
  return floor or first or '0', name
end
