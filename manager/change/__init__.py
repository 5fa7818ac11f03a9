"""How pushed configuration reaches the hosts."""
