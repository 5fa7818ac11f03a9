"""Flower's configuration file, which Flower executes when it starts.

It sets the users, so that their passwords are in no command line and no environment.
"""

from manager.local.flower import users_of
from manager.settings import load_settings

basic_auth = users_of(load_settings())
