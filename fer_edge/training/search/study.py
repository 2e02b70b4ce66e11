"""An Optuna study: where it is kept, whose it is, which of its trials have lost their worker."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.errors import IntegrityError, UnavailableError, UsageError, require

if TYPE_CHECKING:
    import optuna

__all__ = ["PRUNERS", "SAMPLERS", "is_lost", "make_pruner", "make_sampler", "open_study", "worker"]

PRUNERS = ("median", "hyperband", "none")
SAMPLERS = ("tpe", "random")

_STARTUP = 5
"""Trials drawn at random before the others say where to look, and ended before any is pruned."""
_LOST_SECONDS = 900.0
"""A trial whose worker, on another machine, has been silent for so long is given up."""
_IDENTITY = "fer_edge"


def open_study(
    where: str,
    name: str,
    *,
    direction: str,
    identity: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Return the study ``name`` kept in ``where``, new or as it stands.

    ``where`` is a database URL (``sqlite:///x.db``, ``postgresql://...``) or a journal file.
    Raises UsageError when it was begun with another ``identity`` (JSON-ready), UnavailableError
    for a database that cannot be used, IntegrityError for a file that is no journal.
    """
    require("optuna", "search")
    import optuna

    # What is worth telling the caller tells; warnings reach it as usual.
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
        known = study.user_attrs.get(_IDENTITY)
        if known is None:
            study.set_user_attr(_IDENTITY, dict(identity))
            known = identity
    except OSError as error:
        raise UnavailableError(
            f"the study in {_shown(where)} cannot be used: {error.strerror or error}",
            fix="name another file with --storage",
        ) from None
    different = [key for key in identity if known.get(key) != identity[key]]
    if different:
        raise UsageError(
            f"the study {name} in {_shown(where)} was begun with another {' and '.join(different)}",
            fix="repeat the options of its beginning, or begin another with --study NAME",
        )
    return study


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Absolute: the lock is a symbolic link to this very text, and Optuna waits for ever on one
    # that leads nowhere.
    path = path.expanduser().resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise UnavailableError(
            f"the journal {path} cannot be used: {error.strerror}",
            fix="name another file with --storage",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is no journal of a study: {error}",
            fix="name another file with --storage, or a database's URL",
        ) from None


def _database(url: str) -> Any:
    sqlalchemy = require("sqlalchemy", "search")
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    # SQLite has one writer at a time: others wait for it.
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
    """Return a storage as it may be printed: without a password."""
    scheme, separator, rest = where.partition("://")
    account, at, host = rest.rpartition("@")
    if not (separator and at and ":" in account):
        return where
    return f"{scheme}://{account.partition(':')[0]}:***@{host}"


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """Return a pruner that sees one score an epoch; none judges the first."""
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=2, max_resource=max(2, epochs))
    return optuna.pruners.NopPruner()


def make_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial.

    Its randomness follows from ``seed`` and the trial's ``number``: two workers never draw the
    same, and a study that was stopped goes on as it would have.
    """
    import optuna

    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    own = int.from_bytes(digest[:4], "big")
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=_STARTUP)


def worker() -> str:
    """Return a name of this process that no later one has: host, number and time of start."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_lost(trial: optuna.trial.FrozenTrial) -> bool:
    """Tell whether the process that ran ``trial`` has died, or has been silent for too long."""
    host, _, process = str(trial.user_attrs.get("worker", "")).partition(" ")
    if host == socket.gethostname():
        number, _, started = process.partition(" ")
        return _started(int(number)) != started
    begun = trial.datetime_start or datetime.now()
    beat = float(trial.user_attrs.get("beat", begun.timestamp()))
    return time.time() - beat > _LOST_SECONDS


def _started(process: int) -> str:
    """Return when a process of this machine started, in the kernel's ticks; "" if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the command's name in parentheses, which may hold anything.
    return text.rpartition(")")[2].split()[19]
