"""The Lua scripts that change leases in Redis.

Each runs atomically. `manager.fleet.leases` calls them.
"""

from typing import Final

#: Shared by the scripts: the clock, and `lease`, which marks a malformed record as broken.
_COMMON: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function lease(key)
  local f = redis.pcall('HMGET', key, 'epoch', 'ttl', 'renewed', 'host', 'worker_id', 'account_id',
    'since', 'revoked', 'home')
  if f.err then return {key = key, broken = true} end
  if not (f[1] or f[2] or f[3]) and redis.call('EXISTS', key) == 0 then return nil end
  local found = {key = key, epoch = tonumber(f[1]), ttl = tonumber(f[2]), renewed = tonumber(f[3]),
    host = f[4] or '', home = f[9] or '', worker_id = f[5] or '', account_id = f[6] or '',
    since = tonumber(f[7]) or 0, revoked = f[8] == '1'}
  -- 1e15 ms is beyond every clock, and near the point where doubles cannot represent n + 1.
  found.broken = not (found.epoch and found.ttl and found.renewed)
    or found.epoch < 0 or found.epoch > 1e15
  return found
end
local function holder(found)
  return {0, found.key, found.host or '', found.worker_id or '', found.account_id or '',
    string.format('%d', found.epoch or 0), string.format('%d', found.since or 0),
    string.format('%d', math.max(0, now - (found.renewed or 0))), found.broken and 1 or 0, found.home or ''}
end
"""

#: Takes all leases or none; returns {1, epoch}, {0, holder} or {-1, milliseconds of quarantine left}.
#: KEYS: marker, epoch, leases. ARGV: host, worker_id, account_id, ttl, quarantine, epoch that is already held
#: (0: none), home.
ACQUIRE: Final = (
    _COMMON
    + """
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local marker = redis.call('HMGET', KEYS[1], 'run_id', 'until')
local trusted = tonumber(marker[2])
if marker[1] ~= run_id or not trusted then
  trusted = now + tonumber(ARGV[5])
  redis.call('HSET', KEYS[1], 'run_id', run_id, 'until', string.format('%d', trusted))
end
local held = tonumber(ARGV[6])
local mine = held > 0
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found and found.broken then return holder(found) end
  if found and not found.revoked and found.epoch ~= held then
    if found.ttl == 0 or found.renewed + found.ttl > now then return holder(found) end
  end
  if not (found and found.epoch == held) then mine = false end
end
if trusted > now and not mine then return {-1, trusted - now} end
local last = tonumber(redis.call('GET', KEYS[2])) or 0
if not (last >= 0 and last < 1e15) then last = 0 end
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found then last = math.max(last, found.epoch) end
end
local epoch = math.max(last + 1, held + 1, now)
redis.call('SET', KEYS[2], string.format('%d', epoch))
for i = 3, #KEYS do
  redis.call('DEL', KEYS[i])
  redis.call('HSET', KEYS[i], 'epoch', string.format('%d', epoch), 'host', ARGV[1], 'home', ARGV[7],
    'worker_id', ARGV[2], 'account_id', ARGV[3], 'ttl', ARGV[4],
    'since', string.format('%d', now), 'renewed', string.format('%d', now))
end
return {1, string.format('%d', epoch)}
"""
)

#: Stores a heartbeat and renews the leases; returns {1}, or {0, holder} if a lease belongs to another.
#: KEYS: epoch, heartbeats' hash, leases. ARGV: epoch, host, worker_id, account_id, ttl, heartbeat, home.
RENEW: Final = (
    _COMMON
    + """
local mine = tonumber(ARGV[1])
local leases = {}
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found and not found.broken then
    local theirs = found.host ~= ARGV[2]
      or (found.home ~= '' and ARGV[7] ~= '' and found.home ~= ARGV[7])
    if found.epoch > mine or (found.epoch == mine and (found.revoked or theirs)) then
      return holder(found)
    end
  end
  leases[i] = found
end
for i = 3, #KEYS do
  local found = leases[i]
  if found and found.epoch == mine and not found.broken then
    redis.call('HSET', KEYS[i], 'renewed', string.format('%d', now), 'worker_id', ARGV[3])
  else
    -- The record is lost or malformed: this worker runs, so the lease is its own.
    redis.call('DEL', KEYS[i])
    redis.call('HSET', KEYS[i], 'epoch', ARGV[1], 'host', ARGV[2], 'home', ARGV[7],
      'worker_id', ARGV[3], 'account_id', ARGV[4], 'ttl', ARGV[5],
      'since', string.format('%d', now), 'renewed', string.format('%d', now))
    if (tonumber(redis.call('GET', KEYS[1])) or 0) < mine then redis.call('SET', KEYS[1], ARGV[1]) end
  end
end
redis.call('HSET', KEYS[2], ARGV[4], string.format('%d.%06d ', t[1], t[2]) .. ARGV[6])
return {1}
"""
)

#: Deletes the leases that are held with exactly this epoch. KEYS: leases. ARGV: epoch.
RELEASE: Final = (
    _COMMON
    + """
for i = 1, #KEYS do
  local found = lease(KEYS[i])
  if found and not found.broken and found.epoch == tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[i])
  end
end
return 1
"""
)

#: Revokes a lease: others may acquire it, and its holder's next renewal is refused. KEYS: lease.
REVOKE: Final = (
    _COMMON
    + """
local found = lease(KEYS[1])
if not found then return 0 end
if found.broken then redis.call('DEL', KEYS[1]) else redis.call('HSET', KEYS[1], 'revoked', '1') end
return 1
"""
)
