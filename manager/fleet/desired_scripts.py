"""The scripts by which desired state changes in Redis, each of them at once; `manager/fleet/desired.py` says what for."""

from typing import Final

#: Shared by the scripts: a record that was edited by hand into nonsense counts as none.
_COMMON: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- Beyond 1e15 a number is no time of ours, and not far from where one more is the same number.
local function number(value) return type(value) == 'number' and value >= 0 and value < 1e15 end
local function read(account)
  local raw = redis.call('HGET', KEYS[1], account)
  if not raw then return nil end
  local ok, r = pcall(cjson.decode, raw)
  if ok and type(r) == 'table' and (r.state == 'running' or r.state == 'stopped')
    and number(r.generation) and number(r.restart or 0) and number(r.claimed or 0) and number(r.mode_at or 0) then
    return r
  end
end
local function write(account, r)
  if type(r.needs) == 'table' and r.needs.avoid then redis.call('SET', 'manager:desired:rules', '1') end
  local text = cjson.encode(r)
  redis.call('HSET', KEYS[1], account, text)
  redis.call('INCR', KEYS[2])
  return text
end
"""

#: Writes that a command was asked for. Whatever is at that key: a trail that cannot be written stops no command.
_AUDIT: Final = """
local function audit(host, entry)
  local noted
  if host ~= '' then
    local text = cjson.encode({stage = 'asked', id = entry.id, what = entry.what, account = entry.account, by = entry.by,
      host = entry.host})
    text = string.format('%d.%06d %s', t[1], t[2], text)
    noted = type(redis.pcall('RPUSH', 'manager:audit:host:' .. host, text)) == 'number'
    if noted then redis.pcall('SADD', 'manager:audit:hosts', host) end
  end
  if not noted then
    redis.pcall('XADD', 'manager:audit', 'MAXLEN', '~', 100000, '*', 'stage', 'asked', 'id', entry.id, 'what', entry.what,
      'account', entry.account, 'by', entry.by, 'host', entry.host)
  end
end
"""

#: KEYS: desired, version, seen. The audit trail is not named among them: a key that is must be readable to who runs the
#: script, and a host may only write there. ARGV: account, wish (JSON: state, restart, by, why, host, flags, failover,
#: needs), nudge or '', token, host of the agent that writes ('': a manager), generation that the command was given when it was
#: sent (0: none that the sender knows), host whose list of the audit trail is written ('': the stream; see `fleet/audit.py`).
#: A token is remembered for a day; the generation that a command carries tells its age however long it lay in a queue.
SET_DESIRED: Final = (
    _COMMON
    + _AUDIT
    + """
local wish = cjson.decode(ARGV[2])
local r = read(ARGV[1])
local given = tonumber(ARGV[6])
if given <= 0 or given > now then given = nil end
local seen = tonumber(redis.call('GET', KEYS[3])) or given
if seen and r and r.generation >= seen then
  local theirs = r.handed and r.host ~= ARGV[5]
  if r.generation == seen and wish.host ~= '' and not theirs
    and (r.host ~= wish.host or r.failover ~= wish.failover or wish.needs) then
    if r.host ~= wish.host then
      r.host = wish.host
      r.claimed = now
    end
    r.handed = nil
    r.failover = wish.failover
    r.needs = wish.needs or r.needs
    return {string.format('%d', seen), write(ARGV[1], r)}
  end
  return {string.format('%d', seen), cjson.encode(r)}
end
local before = {state = r and r.state or 'stopped', host = r and r.host or '', restart = r and r.restart or 0,
  claimed = r and (r.claimed or r.generation), failover = r and r.failover or false}
local generation = math.max(seen or now, r and r.generation + 1 or 0)
wish.generation = generation
wish.at = now
wish.before = before
if wish.restart == 1 then wish.restart = generation else wish.restart = before.restart end
if wish.host == '' then
  wish.host = before.host
  wish.failover = r and r.failover or false
end
wish.needs = wish.needs or (r and r.needs)
if r then
  wish.mode = r.mode
  wish.mode_at = r.mode_at
  wish.mode_by = r.mode_by
end
wish.claimed = before.state == 'running' and before.host == wish.host and before.claimed or now
audit(ARGV[7], {id = ARGV[4], what = wish.why, account = ARGV[1], by = wish.by, host = wish.host})
redis.call('SET', KEYS[3], string.format('%d', generation), 'EX', 86400)
if ARGV[3] ~= '' and wish.host ~= '' then
  local list = 'manager:host:' .. wish.host .. ':nudges'
  redis.call('RPUSH', list, ARGV[3])
  redis.call('EXPIRE', list, 60)
end
return {string.format('%d', generation), write(ARGV[1], wish)}
"""
)

#: KEYS: desired, version. ARGV: account, generation. What was refused was never wanted: as it was before.
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

#: KEYS: desired, version. ARGV: account, record. An agent remembers what a Redis that lost data does not.
RESTORE: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
local mine = cjson.decode(ARGV[2])
local newer = not r or r.generation < mine.generation
local newer_mode = not r or (r.mode_at or 0) < (mine.mode_at or 0)
if not (newer or newer_mode) then return 0 end
local kept = newer and mine or r
local mode = newer_mode and mine or r
kept.mode, kept.mode_at, kept.mode_by = mode.mode, mode.mode_at, mode.mode_by
write(ARGV[1], kept)
return 1
"""
)

#: KEYS: desired, version, seen. ARGV: account, mode, by, what, token, host whose list of the audit trail is written ('': the
#: stream). False if nothing was ever desired of the account. A mode has a time of its own: it changes no generation, so that a
#: start or stop that is under way is not overruled by it, and a start that is refused can still be taken back.
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
audit(ARGV[6], {id = ARGV[5], what = ARGV[4], account = ARGV[1], by = ARGV[3], host = r.host or ''})
redis.call('SET', KEYS[3], string.format('%d', r.mode_at), 'EX', 86400)
return write(ARGV[1], r)
"""
)

#: KEYS: desired, version. ARGV: account, time of the mode that was refused, the mode before it.
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

#: KEYS: desired, version. ARGV: account, generation, from host, to host, why ('': as it was). Who gave the account away may not
#: take it back by the command that it has at hand.
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

#: KEYS: desired, version. ARGV: account, generation (0: none), host, by. The record stays as `stopped`, with a generation above
#: every earlier one: the memory of a host that was away must not bring the account back.
FORGET_ACCOUNT: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
local seen = r and r.generation or 0
if seen ~= tonumber(ARGV[2]) or (r and r.state ~= 'stopped') then return 0 end
local host = r and r.host or ''
local forgotten = {state = 'stopped', generation = math.max(now, seen + 1), restart = r and r.restart or 0,
  host = host ~= '' and host or ARGV[3], by = ARGV[4], why = 'forget', at = now, claimed = now}
if r and r.mode_at then
  forgotten.mode = 'normal'
  forgotten.mode_at = math.max(now, r.mode_at + 1)
end
write(ARGV[1], forgotten)
return 1
"""
)

#: KEYS: desired, version. ARGV: account, generation. Of an account that was asked for and refused, and never had a host.
FORGET: Final = (
    _COMMON
    + """
local r = read(ARGV[1])
if not r or r.generation ~= tonumber(ARGV[2]) or r.state ~= 'stopped' or (r.host or '') ~= '' then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('INCR', KEYS[2])
return 1
"""
)
