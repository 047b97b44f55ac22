-- Reads a register. A plain HMGET would send all of what a stranger has put in its place.
--
-- KEYS[1]  the register: a hash with the fields `version` and `value`
--
-- Answers {version, value}, or {null, null} if there is no register.
local version, value = read_register(KEYS[1])
if version == nil then
  return value
end
-- No node writes more than 1 MiB. One byte more is enough to refuse it.
return {version, version and string.sub(value, 1, 1048577)}
