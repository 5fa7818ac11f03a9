"""Flower's configuration file, which Flower runs as it starts: its users, so that their passwords stand in no environment."""

from manager.local.flower import users_of
from manager.settings import load_settings

basic_auth = users_of(load_settings())
