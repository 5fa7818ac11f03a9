"""Limits of workers: measuring, judging and enforcing them."""
