"""How changed configuration reaches hosts and running workers."""
