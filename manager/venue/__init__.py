"""The paper venue: a server with accounts, prices, fills and faults."""
