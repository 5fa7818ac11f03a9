"""`manager up` and `manager down`: a whole fleet on one machine."""
