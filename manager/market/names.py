"""Names of the built-in sessions.

Separate from their hours, so that models can import them without clocks.
"""

from typing import Literal

SessionName = Literal["fx", "always", "crypto", "metals", "us-index", "sydney", "tokyo", "london", "newyork"]
