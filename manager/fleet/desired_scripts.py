"""The Lua scripts that change desired state in Redis.

Each runs atomically. `manager.fleet.desired_store` calls them.
"""

from typing import Final

#: Shared by the scripts. `read` treats a malformed record as a missing one.
_COMMON: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- 1e15 ms is beyond every clock, and near the point where doubles cannot represent n + 1.
local function number(value) return type(value) == 'number' and value >= 0 and value < 1e15 end
local function read(account)
  local raw = redis.call('HGET', KEYS[1], account)
  if not raw then return nil end
  local ok, r = pcall(cjson.decode, raw)
  if ok and type(r) == 'table' and (r.state == 'running' or r.state == 'stopped')
    and number(r.generation) and number(r.restart or 0) and number(r.claimed or 0)
    and number(r.mode_at or 0) then
    return r
  end
end
local function write(account, r)
  if type(r.needs) == 'table' and r.needs.avoid then
    redis.call('SET', 'manager:desired:rules', '1')
  end
  local text = cjson.encode(r)
  redis.call('HSET', KEYS[1], account, text)
  redis.call('INCR', KEYS[2])
  return text
end
"""

#: Adds an `asked` entry to the audit trail. Uses pcall, because a trail that cannot be written must not stop
#: a command.
_AUDIT: Final = """
local function audit(host, entry)
  local noted
  if host ~= '' then
    local text = cjson.encode({stage = 'asked', id = entry.id, what = entry.what,
      account = entry.account, by = entry.by, host = entry.host})
    text = string.format('%d.%06d %s', t[1], t[2], text)
    noted = type(redis.pcall('RPUSH', 'manager:audit:host:' .. host, text)) == 'number'
    if noted then redis.pcall('SADD', 'manager:audit:hosts', host) end
  end
  if not noted then
    redis.pcall('XADD', 'manager:audit', 'MAXLEN', '~', 100000, '*', 'stage', 'asked', 'id', entry.id,
      'what', entry.what, 'account', entry.account, 'by', entry.by, 'host', entry.host)
  end
  redis.pcall('XADD', 'manager:events', '*', 'host', entry.host, 'account_id', entry.account, 'worker_id', '',
    'status', '', 'error', '', 'epoch', '0', 'kind', 'other', 'v', '1', 'type', 'command.asked', 'by',
    entry.by, 'command', entry.id, 'data', cjson.encode({what = entry.what}))
end
"""

#: Applies a change of desired state; returns {generation of the command, record that is desired now}.
#:
#: KEYS: desired, version, seen. The audit trail is not among them: Redis demands read rights for every
#: declared key, and a host may only write there.
#:
#: ARGV: 1 account; 2 change (JSON: state, restart, by, why, host, flags, failover, needs); 3 urgent stop
#: (JSON) or ''; 4 token; 5 host of the agent that writes ('': a manager); 6 generation that the command got
#: when it was sent (0: unknown to the writer); 7 host whose audit list is written ('': the stream; see
#: `manager.fleet.audit`).
#:
#: A token is remembered for a day. The generation in argument 6 shows the age of a command that waited longer
#: than that in a queue.
SET_DESIRED: Final = (
    _COMMON
    + _AUDIT
    + """
local change = cjson.decode(ARGV[2])
local r = read(ARGV[1])
local given = tonumber(ARGV[6])
if given <= 0 or given > now then given = nil end
local seen = tonumber(redis.call('GET', KEYS[3])) or given
if seen and r and r.generation >= seen then
  -- The former host of a reassigned account must not take it back by the same command.
  local given_away = r.handed and r.host ~= ARGV[5]
  if r.generation == seen and change.host ~= '' and not given_away
    and (r.host ~= change.host or r.failover ~= change.failover or change.needs) then
    if r.host ~= change.host then
      r.host = change.host
      r.claimed = now
    end
    r.handed = nil
    r.failover = change.failover
    r.needs = change.needs or r.needs
    return {string.format('%d', seen), write(ARGV[1], r)}
  end
  return {string.format('%d', seen), cjson.encode(r)}
end
local before = {state = r and r.state or 'stopped', host = r and r.host or '',
  restart = r and r.restart or 0,
  claimed = r and (r.claimed or r.generation), failover = r and r.failover or false}
local generation = math.max(seen or now, r and r.generation + 1 or 0)
change.generation = generation
change.at = now
change.before = before
if change.restart == 1 then change.restart = generation else change.restart = before.restart end
if change.host == '' then
  change.host = before.host
  change.failover = r and r.failover or false
end
change.needs = change.needs or (r and r.needs)
if r then
  change.mode = r.mode
  change.mode_at = r.mode_at
  change.mode_by = r.mode_by
end
change.token = ARGV[4]
change.claimed = before.state == 'running' and before.host == change.host and before.claimed or now
audit(ARGV[7],
  {id = ARGV[4], what = change.why, account = ARGV[1], by = change.by, host = change.host})
redis.call('SET', KEYS[3], string.format('%d', generation), 'EX', 86400)
if ARGV[3] ~= '' and change.host ~= '' then
  local list = 'manager:host:' .. change.host .. ':nudges'
  redis.call('RPUSH', list, ARGV[3])
  redis.call('EXPIRE', list, 60)
end
return {string.format('%d', generation), write(ARGV[1], change)}
"""
)

#: Restores the fields before the command of this generation, which was refused.
#: KEYS: desired, version. ARGV: account, generation.
WITHDRAW: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
if not r or r.generation ~= tonumber(ARGV[2]) or type(r.before) ~= 'table' then return 0 end
r.state = r.before.state
r.host = r.before.host
r.restart = r.before.restart
r.claimed = r.before.claimed or r.claimed
r.before = nil
r.handed = nil
write(ARGV[1], r)
return 1
"""
)

#: Writes a record that an agent remembers and that Redis has lost. State and mode each stay if Redis has a
#: newer one. KEYS: desired, version. ARGV: account, record.
RESTORE: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
local mine = cjson.decode(ARGV[2])
local newer = not r or r.generation < mine.generation
local newer_mode = not r or (r.mode_at or 0) < (mine.mode_at or 0)
if not (newer or newer_mode) then return 0 end
local merged = newer and mine or r
local mode = newer_mode and mine or r
merged.mode, merged.mode_at, merged.mode_by = mode.mode, mode.mode_at, mode.mode_by
write(ARGV[1], merged)
return 1
"""
)

#: Sets the trading mode; returns the record, or false if the account has none. A mode has its own time and
#: changes no generation: it replaces no start or stop that is under way, and a start that is refused can
#: still be withdrawn. KEYS: desired, version, seen. ARGV: account, mode, by, what, token, host whose audit
#: list is written ('': the stream).
SET_MODE: Final = (
    _COMMON
    + _AUDIT
    + """
local r = read(ARGV[1])
if not r then return false end
if redis.call('GET', KEYS[3]) then return cjson.encode(r) end
r.mode = ARGV[2]
r.mode_at = math.max(now, (r.mode_at or 0) + 1)
r.mode_by = ARGV[3]
audit(ARGV[6],
  {id = ARGV[5], what = ARGV[4], account = ARGV[1], by = ARGV[3], host = r.host or ''})
redis.call('SET', KEYS[3], string.format('%d', r.mode_at), 'EX', 86400)
return write(ARGV[1], r)
"""
)

#: Restores the mode before one that was refused.
#: KEYS: desired, version. ARGV: account, time of the refused mode, the mode before it.
WITHDRAW_MODE: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
if not r or r.mode_at ~= tonumber(ARGV[2]) then return 0 end
r.mode = ARGV[3]
r.mode_at = r.mode_at + 1
write(ARGV[1], r)
return 1
"""
)

#: Reassigns the account to another host. `handed` prevents that the former host takes it back by the command
#: that it is still running. KEYS: desired, version. ARGV: account, generation, from host, to
#: host, reason ('': unchanged).
REASSIGN: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
if not r or r.generation ~= tonumber(ARGV[2]) or r.host ~= ARGV[3] then return false end
r.host = ARGV[4]
r.claimed = now
r.handed = true
if ARGV[5] ~= '' then r.why = ARGV[5] end
return write(ARGV[1], r)
"""
)

#: Reduces an account's record to `stopped`. Its generation is above every earlier one: a host that was
#: unreachable and still remembers the account must not restore it. KEYS: desired, version. ARGV: account,
#: generation (0: none), host, by.
FORGET_ACCOUNT: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
local seen = r and r.generation or 0
if seen ~= tonumber(ARGV[2]) or (r and r.state ~= 'stopped') then return 0 end
local host = r and r.host or ''
local forgotten = {state = 'stopped', generation = math.max(now, seen + 1),
  restart = r and r.restart or 0, host = host ~= '' and host or ARGV[3], by = ARGV[4], why = 'forget',
  at = now, claimed = now}
if r and r.mode_at then
  forgotten.mode = 'normal'
  forgotten.mode_at = math.max(now, r.mode_at + 1)
end
write(ARGV[1], forgotten)
return 1
"""
)

#: Deletes the record of an account whose start was refused and that no host ever had.
#: KEYS: desired, version. ARGV: account, generation.
FORGET: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
if not r or r.generation ~= tonumber(ARGV[2]) or r.state ~= 'stopped' or (r.host or '') ~= '' then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('INCR', KEYS[2])
return 1
"""
)
