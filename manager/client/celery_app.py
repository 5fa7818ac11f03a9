"""The Celery app of senders, and the loader of `celeryconfig.py`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from celery import Celery

from manager.fleet.address import parse_redis_url

#: The module name of `celeryconfig.py`. A service that imports this package may have its own `celeryconfig`;
#: the first one on sys.path would then configure both.
_MODULE: Final = "_manager_celeryconfig"


def celery_settings() -> ModuleType:
    """Return our `celeryconfig.py` as a module."""
    loaded = sys.modules.get(_MODULE)
    if loaded is not None:
        return loaded
    path = Path(__file__).resolve().parents[2] / "celeryconfig.py"
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing: reinstall the project")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_MODULE] = module
    return module


def sender_app(url: str) -> Any:
    """Return a Celery app that sends to the Redis at `url`.

    Raises SettingsError if the URL cannot be used.
    """
    app = Celery("manager", set_as_current=False)
    app.config_from_object(celery_settings())
    url = parse_redis_url(url).url
    app.conf.update(broker_url=url, result_backend=url)
    return app
