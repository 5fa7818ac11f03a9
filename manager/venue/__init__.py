"""The paper venue: a small real server with accounts, prices and fills, and faults on request."""
