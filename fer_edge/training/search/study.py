"""An Optuna study: its storage, its identity, and trials whose worker has died."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.errors import (
    FerEdgeError,
    IntegrityError,
    UnavailableError,
    UsageError,
    require,
)
from fer_edge.oserrors import error_from_system
from fer_edge.paths import expanded

if TYPE_CHECKING:
    import optuna

__all__ = ["PRUNERS", "SAMPLERS", "is_lost", "make_pruner", "make_sampler", "open_study", "worker"]

PRUNERS = ("median", "hyperband", "none")
"""Values of ``--pruner``."""
SAMPLERS = ("tpe", "random")
"""Values of ``--sampler``."""

_STARTUP = 5
"""So many trials are random, and so many end before the first one is pruned."""
_LOST_SECONDS = 900.0
"""A trial counts as lost if its worker on another machine reports nothing for so long."""
_IDENTITY = "fer_edge"


def open_study(
    where: str,
    name: str,
    *,
    direction: str,
    identity: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Return the study ``name`` stored in ``where``; it is created if it does not exist.

    ``where`` is a database URL (``sqlite:///x.db``, ``postgresql://...``) or a journal file.
    Raises UsageError if it was started with another ``identity`` (JSON-ready), UnavailableError
    for a database that cannot be used, IntegrityError for a file that is not a journal.
    """
    require("optuna", "search")
    import optuna

    # The caller reports results itself. Python warnings are not affected.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _database(where) if "://" in where else _journal(Path(where))
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction=direction,
            pruner=pruner,
            load_if_exists=True,
        )
        recorded = study.user_attrs.get(_IDENTITY)
        if recorded is None:
            study.set_user_attr(_IDENTITY, dict(identity))
            recorded = identity
    except OSError as error:
        raise _unusable(error, _shown(where)) from None
    different = [key for key in identity if recorded.get(key) != identity[key]]
    if different:
        raise UsageError(
            f"the study {name} in {_shown(where)} was started with another "
            f"{' and '.join(different)}",
            fix="repeat the options that it was started with, or start another with --study NAME",
        )
    return study


def _unusable(error: OSError, where: str) -> FerEdgeError:
    """Return the error for a file of the study that the system refuses."""
    told = error_from_system(error, where)
    named = "" if where in str(told) else f" {where}"
    return type(told)(
        f"the journal{named} cannot be used: {told}", fix="name another file with --storage"
    )


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Absolute: the lock is a symbolic link to this path, and Optuna waits without end on a link
    # to a path that does not exist.
    path = expanded(path).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise _unusable(error, str(path)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is not the journal of a study: {error}",
            fix="name another file with --storage, or a database's URL",
        ) from None


def _database(url: str) -> Any:
    sqlalchemy = require("sqlalchemy", "search")
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    # SQLite allows one writer at a time: the others wait.
    wait = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else None
    try:
        return RDBStorage(url, engine_kwargs=wait)
    except ImportError as error:
        raise UnavailableError(
            f"the database {_shown(url)} needs a Python driver: {error.__cause__ or error}",
            fix="pip install the driver, e.g. psycopg2-binary or pymysql",
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UnavailableError(
            f"the database {_shown(url)} cannot be used: {reason}",
            fix="correct --storage, e.g. sqlite:///study.db or postgresql://user@host/name",
        ) from None


def _shown(where: str) -> str:
    """Return a storage without its password, for messages."""
    scheme, separator, rest = where.partition("://")
    account, at, host = rest.rpartition("@")
    if not (separator and at and ":" in account):
        return where
    return f"{scheme}://{account.partition(':')[0]}:***@{host}"


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """Return a pruner for one score per epoch; it never ends a trial after its first epoch."""
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=2, max_resource=max(2, epochs))
    return optuna.pruners.NopPruner()


def make_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial.

    It is seeded with ``seed`` and the trial's ``number``: two workers never draw the same values,
    and a study that was stopped continues as if it had not been.
    """
    import optuna

    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    trial_seed = int.from_bytes(digest[:4], "big")
    if name == "random":
        return optuna.samplers.RandomSampler(seed=trial_seed)
    return optuna.samplers.TPESampler(seed=trial_seed, n_startup_trials=_STARTUP)


def worker() -> str:
    """Return a unique name of this process: host, process id and time of start."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_lost(trial: optuna.trial.FrozenTrial) -> bool:
    """Return whether the process of ``trial`` has died, or has reported nothing for too long."""
    host, _, process = str(trial.user_attrs.get("worker", "")).partition(" ")
    if host == socket.gethostname():
        number, _, started = process.partition(" ")
        return _started(int(number)) != started
    started_at = trial.datetime_start or datetime.now()
    beat = float(trial.user_attrs.get("beat", started_at.timestamp()))
    return time.time() - beat > _LOST_SECONDS


def _started(process: int) -> str:
    """Return the start time of a process in the kernel's ticks; "" if it does not exist."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the command's name in parentheses; the name may contain spaces.
    return text.rpartition(")")[2].split()[19]
