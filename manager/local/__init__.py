"""What `manager up` does on one machine: starts what is needed, keeps it, shows it, ends it."""
