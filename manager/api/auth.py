"""Authenticates requests by bearer token or session cookie.

A credential is checked against Redis at most once a second.
"""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from manager.api.problems import ProblemError
from manager.fleet.api_sessions import SessionStore
from manager.fleet.tokens import SCOPES, Token, TokenStore
from manager.placement.labels import Selection

#: Seconds for which a valid credential is not checked again. A revoked one may be accepted for that long.
_TRUST_SECONDS: Final = 1.0
_TRUSTED: Final = 4096
COOKIE: Final = "wm_session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The authenticated sender of a request, and its rights."""

    name: str
    #: Distinguishes principals for rate limits: a token's id, or a session's.
    key: str
    scopes: frozenset[str]
    selection: Selection = field(default_factory=Selection)
    read_selection: bool = False
    logs: bool = True
    kind: Literal["token", "session"] = "token"
    #: The token's id; empty for a session that was opened with a code.
    token_id: str = ""

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """Check that the principal has the scope. Raises ProblemError `forbidden`."""
        if not self.allows(scope):
            have = ", ".join(sorted(self.scopes)) or "none"
            raise ProblemError(
                "forbidden", f"this needs the scope {scope}; {self.name} has {have}", more={"scope": scope}
            )

    @property
    def readable(self) -> Selection:
        """The accounts that the principal may read; empty: all."""
        return self.selection if self.read_selection else Selection()

    def by(self, address: str) -> str:
        """Return the principal's name in the audit trail."""
        return f"{self.name}@api ({address})"


#: The principal of the token in MANAGER_METRICS_TOKEN_FILE.
_SCRAPER: Final = Principal(name="metrics", key="metrics-file", scopes=frozenset({"metrics"}))


class Authenticator:
    """Checks tokens and sessions. Its methods block; call them on a thread."""

    def __init__(
        self,
        tokens: TokenStore,
        sessions: SessionStore,
        clock: Callable[[], float] = time.monotonic,
        *,
        metrics_token: str = "",
    ) -> None:
        """Create an authenticator.

        `metrics_token` may read the metrics, also while Redis is unreachable.
        """
        self._metrics_token = metrics_token.encode()
        self.tokens = tokens
        self.sessions = sessions
        self._clock = clock
        #: Hash of the credential → principal, and the end of its trust.
        self._trusted: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def trusted(self, credential: str) -> Principal | None:
        """Return the principal of a recently checked credential. Does not block."""
        if self._metrics_token and hmac.compare_digest(credential.encode(), self._metrics_token):
            return _SCRAPER
        found = self._trusted.get(_key(credential))
        return found[0] if found is not None and self._clock() < found[1] else None

    def known(self, credential: str) -> bool:
        """Return whether a credential was valid at its last check, at any time. Does not block."""
        return _key(credential) in self._trusted

    def by_token(self, text: str) -> Principal:
        """Return the principal of a bearer token.

        Raises ProblemError, FleetUnavailableError.
        """
        verdict = self.tokens.verify(text)
        if verdict.token is None:
            self.forget(text)
            if verdict.refused == "expired":
                raise ProblemError("token_expired", "the token has expired: ask for a new one")
            raise ProblemError("unauthenticated", "the token is not valid: it is unknown or was revoked")
        return self._trust(text, of_token(verdict.token))

    def by_session(self, secret: str) -> Principal:
        """Return the principal of a session.

        Raises ProblemError, FleetUnavailableError.
        """
        session = self.sessions.verify(secret)
        if session is None:
            self.forget(secret)
            raise ProblemError("unauthenticated", "the session is over: log in again")
        key = _key(secret)[:16]
        if not session.token_id:
            principal = Principal(name=session.name, key=key, scopes=frozenset(SCOPES), kind="session")
            return self._trust(secret, principal)
        verdict = self.tokens.get(session.token_id)
        if verdict.token is None:
            self.forget(secret)
            raise ProblemError("unauthenticated", "the token of this session is revoked or has expired")
        return self._trust(secret, of_token(verdict.token, session=key))

    def forget(self, credential: str) -> None:
        """Drop the cached principal of a credential, as after a logout."""
        self._trusted.pop(_key(credential), None)

    def forget_token(self, token_id: str) -> None:
        """Drop every cached principal of a token, as after its revocation."""
        for key, (principal, _) in list(self._trusted.items()):
            if principal.token_id == token_id:
                self._trusted.pop(key, None)

    def _trust(self, credential: str, principal: Principal) -> Principal:
        self._trusted[_key(credential)] = (principal, self._clock() + _TRUST_SECONDS)
        while len(self._trusted) > _TRUSTED:
            self._trusted.popitem(last=False)
        return principal


def of_token(token: Token, session: str = "") -> Principal:
    """Return the principal of a token, or of a session opened with it."""
    return Principal(
        name=token.name,
        key=session or token.id,
        scopes=token.scopes,
        selection=token.selection,
        read_selection=token.read_selection,
        logs=token.logs,
        kind="session" if session else "token",
        token_id=token.id,
    )


def _key(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()
