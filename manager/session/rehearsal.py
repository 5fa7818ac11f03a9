"""Runs, in the preloaded process, code that every worker runs later.

Python and its libraries create specialised bytecode, caches and validators at the first calls of a function.
Workers share what the preloaded process has created. Without this rehearsal each worker has a private copy of
it, about 0.9 MB.
"""

import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from manager.config import (
    AccountConfig,
    CurrencyConfiguration,
    PositionManagementConfig,
    RiskConfig,
    StrategyConfig,
)
from manager.fleet.redis_client import open_client
from manager.gateways import make_gateway
from manager.gateways.fake import FakeGateway
from manager.models import WorkerMetrics
from manager.session.entry import gateway_options
from manager.session.figures import SessionFigures
from manager.session.health import HealthJudge
from manager.session.launch_spec import LaunchSpec
from manager.session.resources import ResourceMeter
from manager.states import TradingMode
from manager.system.masking import Masker
from manager.trading.cycle import ObserveCycle

#: CPython 3.11 to 3.13 specialise the bytecode of a function within its first calls, at most 17.
_ROUNDS: Final = 20
_NAME: Final = "rehearsal"
#: Nothing connects to it.
_REDIS_URL: Final = "redis://127.0.0.1:1/0"


def rehearse() -> None:
    """Run what every worker runs, without threads, files and connections."""
    line = _spec().to_json()
    meter = ResourceMeter()
    gateway = FakeGateway()
    for _ in range(_ROUNDS):
        spec = LaunchSpec.from_json(line)
        mask = Masker(spec.all_secrets())
        make_gateway(spec.config.gateway, gateway_options(spec))
        open_client(_REDIS_URL).close()
        figures = SessionFigures(ObserveCycle(spec.config), HealthJudge(spec.config.health), meter)
        figures.connected(gateway.connect(time.monotonic() + 1))
        figures.run_cycle(gateway, paused=False)
        metrics = figures.refresh(gateway, gateway.check(), TradingMode.NORMAL)
        WorkerMetrics.read(mask.values(metrics.to_dict()))
        gateway.disconnect()


def _spec() -> LaunchSpec:
    """Return the launch spec of a paper account that does not exist."""
    risk = RiskConfig(
        risk_percent=1.0, max_positions=5, portfolio_risk_percent=10.0, max_concurrent_trades=15
    )
    return LaunchSpec(
        worker_id=_NAME,
        config=AccountConfig(
            account_id=_NAME,
            gateway="paper",
            login=1,
            server=_NAME,
            default_risk=risk,
            currencies=(
                CurrencyConfiguration(
                    symbol="EURUSD",
                    risk=risk,
                    strategy=StrategyConfig(strategy_type=_NAME, timeframe="M5"),
                    position_management=PositionManagementConfig(),
                ),
            ),
        ),
        password=SecretStr(_NAME),
        redis_url=SecretStr(_REDIS_URL),
        host=_NAME,
        home="",
        claims=(),
        epoch=0,
        lease_seconds=0.0,
        leased_at=0.0,
        venue_address=f"unix:/{_NAME}",
        log_file=Path(_NAME),
        beat_file=Path(_NAME),
        private_dir=Path(_NAME),
        directory=None,
        control_address=_NAME,
        control_token=SecretStr(_NAME),
        heartbeat_interval_seconds=1.0,
        log_level="INFO",
        log_json=False,
    )
