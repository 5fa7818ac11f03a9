"""Sends commands to the hosts of a fleet as Celery tasks."""
