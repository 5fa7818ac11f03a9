"""The protocol of a pool of workers, and a pool for tests."""
