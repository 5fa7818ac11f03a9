"""Market hours, schedules, and the decision whether an account runs.

Everything here is a pure function of its arguments: no module reads a clock or the network, or keeps state
other than caches. Instants are timezone-aware datetimes; results are in UTC. Wall times are naive
datetimes on a `MarketClock`.
"""
