"""Names of the built-in sessions, apart from their hours: models import them and need no clock."""

from typing import Literal

SessionName = Literal["fx", "always", "crypto", "metals", "us-index", "sydney", "tokyo", "london", "newyork"]
