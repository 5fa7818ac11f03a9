"""The venue's database: accounts, positions, orders and deals in SQLite.

Money is decimal text, never a float.
"""

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

#: Iterations of PBKDF2: few, because it protects play money and two hundred concurrent logins must be fast.
_ROUNDS: Final = 1_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS accounts (
  server TEXT NOT NULL, login TEXT NOT NULL, salt BLOB NOT NULL, hash BLOB NOT NULL,
  balance TEXT NOT NULL, currency TEXT NOT NULL, leverage INTEGER NOT NULL, position_mode TEXT NOT NULL,
  logins INTEGER NOT NULL DEFAULT 0, overlaps INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (server, login)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT NOT NULL, login TEXT NOT NULL, symbol TEXT NOT NULL,
  side TEXT NOT NULL, volume TEXT NOT NULL, open_price TEXT NOT NULL, opened_at REAL NOT NULL, comment TEXT
  NOT NULL);
CREATE INDEX IF NOT EXISTS positions_of_account ON positions (server, login);
CREATE TABLE IF NOT EXISTS orders (
  server TEXT NOT NULL, login TEXT NOT NULL, client_order_id TEXT NOT NULL, answer TEXT NOT NULL,
  PRIMARY KEY (server, login, client_order_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deals (
  id INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT NOT NULL, login TEXT NOT NULL, position_id INTEGER NOT
  NULL, symbol TEXT NOT NULL, side TEXT NOT NULL, volume TEXT NOT NULL, price TEXT NOT NULL, profit TEXT NOT
  NULL, time REAL NOT NULL);
"""

#: (server, login); a login is always text here.
AccountKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, as stored in the database."""

    balance: Decimal
    currency: str
    leverage: int
    position_mode: str


@dataclass(frozen=True, slots=True)
class PositionRow:
    """A position, as stored in the database."""

    id: int
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal
    opened_at: float


class Ledger:
    """The database. Used by one thread.

    Each method commits, except inside `together`.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=64)
        path.chmod(0o600)
        try:
            # Fails here if another venue has the database open.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            # Commits survive the process but not a power failure, which suffices for play money.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise ValueError(f"{path}: {error}: does another venue run on it?") from None

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit everything written inside as one transaction.

        Roll back after an exception.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # accounts

    def authenticate(self, key: AccountKey, password: str) -> bool | None:
        """Return whether the password is correct.

        None if there is no such account.
        """
        row = self._one("SELECT salt, hash FROM accounts WHERE server=? AND login=?", key)
        return None if row is None else hmac.compare_digest(_hash(password, row[0]), row[1])

    def create_account(
        self,
        key: AccountKey,
        password: str,
        *,
        balance: Decimal = Decimal("10000.00"),
        currency: str = "USD",
        leverage: int = 100,
        position_mode: str = "hedging",
    ) -> None:
        """Create an account. Raises ValueError if it exists."""
        salt = os.urandom(16)
        try:
            self._db.execute(
                "INSERT INTO accounts (server, login, salt, hash, balance, currency, leverage, "
                "position_mode) VALUES (?,?,?,?,?,?,?,?)",
                (*key, salt, _hash(password, salt), str(balance), currency, leverage, position_mode),
            )
        except sqlite3.IntegrityError:
            raise ValueError(f"login {key[1]} at server {key[0]} exists already") from None

    def account(self, key: AccountKey) -> AccountRow:
        row = self._one(
            "SELECT balance, currency, leverage, position_mode FROM accounts WHERE server=? AND login=?", key
        )
        if row is None:
            raise LookupError(f"no login {key[1]} at server {key[0]}")
        return AccountRow(Decimal(row[0]), row[1], row[2], row[3])

    def count_login(self, key: AccountKey, overlaps: int) -> None:
        self._db.execute(
            "UPDATE accounts SET logins=logins+1, overlaps=overlaps+? WHERE server=? AND login=?",
            (overlaps, *key),
        )

    def set_balance(self, key: AccountKey, balance: Decimal) -> None:
        self._db.execute("UPDATE accounts SET balance=? WHERE server=? AND login=?", (str(balance), *key))

    def summaries(self) -> list[dict[str, Any]]:
        """Return every account without its secrets."""
        names = ("server", "login", "balance", "currency", "leverage", "position_mode", "logins", "overlaps")
        rows = self._db.execute(f"SELECT {', '.join(names)} FROM accounts ORDER BY server, login")  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]

    # positions

    def positions(self, key: AccountKey) -> list[PositionRow]:
        rows = self._db.execute(
            "SELECT id, symbol, side, volume, open_price, opened_at FROM positions "
            "WHERE server=? AND login=? ORDER BY id",
            key,
        )
        return [PositionRow(r[0], r[1], r[2], Decimal(r[3]), Decimal(r[4]), r[5]) for r in rows]

    def open_position(
        self,
        key: AccountKey,
        symbol: str,
        side: str,
        volume: Decimal,
        price: Decimal,
        now: float,
        comment: str,
    ) -> int:
        done = self._db.execute(
            "INSERT INTO positions (server, login, symbol, side, volume, open_price, opened_at, comment) "
            "VALUES (?,?,?,?,?,?,?,?)",
            (*key, symbol, side, str(volume), str(price), now, comment),
        )
        return int(done.lastrowid or 0)

    def change_position(self, position_id: int, volume: Decimal, price: Decimal) -> None:
        """Set a position's volume and opening price; a volume of 0 removes it."""
        if volume == 0:
            self._db.execute("DELETE FROM positions WHERE id=?", (position_id,))
        else:
            self._db.execute(
                "UPDATE positions SET volume=?, open_price=? WHERE id=?",
                (str(volume), str(price), position_id),
            )

    def add_deal(
        self,
        key: AccountKey,
        position_id: int,
        symbol: str,
        side: str,
        volume: Decimal,
        price: Decimal,
        profit: Decimal,
        now: float,
    ) -> None:
        self._db.execute(
            "INSERT INTO deals (server, login, position_id, symbol, side, volume, price, profit, time) "
            "VALUES (?,?,?,?,?,?,?,?,?)",
            (*key, position_id, symbol, side, str(volume), str(price), str(profit), now),
        )

    # Orders, stored so that an order that is sent twice is executed once.

    def answered(self, key: AccountKey, client_order_id: str) -> str | None:
        row = self._one(
            "SELECT answer FROM orders WHERE server=? AND login=? AND client_order_id=?",
            (*key, client_order_id),
        )
        return None if row is None else str(row[0])

    def keep_answer(self, key: AccountKey, client_order_id: str, answer: str) -> None:
        self._db.execute("INSERT INTO orders VALUES (?,?,?,?)", (*key, client_order_id, answer))

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return found


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
