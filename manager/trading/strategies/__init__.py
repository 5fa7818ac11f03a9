"""The built-in strategies.

Each one is an entry point of the group `manager.strategies`.
"""
