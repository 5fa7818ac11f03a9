"""When markets are open, and when an account's schedule lets it run.

Everything here is a pure function of its arguments: no clock is read, nothing is fetched, no state is kept
but caches of results. Instants are timezone-aware datetimes; results are in UTC. Wall times are naive
datetimes on a `MarketClock`.
"""
