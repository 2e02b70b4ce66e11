"""Hyper-parameter search with Optuna: a study that workers share, and that can be resumed.

Each trial is a short run in ``FOLDER/trial-0000`` scored on PUBLIC by the recipe's
``stop.monitor``, at its best epoch. Its recipe, history and curves are kept. Its weights are
deleted: the result of a search is a recipe, which is trained in full afterwards.

The study is stored in a journal file (by default ``FOLDER/study.journal``) or in any database that
SQLAlchemy supports. The default is a journal and not SQLite because its lock works on network file
systems, where SQLite's does not, and because it needs no SQLAlchemy.

A trial that was interrupted (by Ctrl-C, or because its process died) is put back into the queue. A
trial with an error (a loss that is not finite, for example) is recorded as failed, with the reason.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.data import FerDataset
from fer_edge.errors import UsageError, of_signal_handler, require
from fer_edge.files import write_text
from fer_edge.records import to_dict
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Recipe, recipe_to_toml, with_overrides
from fer_edge.training.loop import TrainingReporter, train
from fer_edge.training.search.space import Space
from fer_edge.training.search.study import is_lost, make_pruner, make_sampler, open_study, worker
from fer_edge.training.session import RunOverview
from fer_edge.training.start import check_network, location
from fer_edge.training.vote_targets import require_votes

if TYPE_CHECKING:
    import optuna

__all__ = ["MIN_FOR_IMPORTANCE", "Search", "SearchReporter", "StudyOptions", "Trial"]

MIN_FOR_IMPORTANCE = 6
"""With fewer completed trials, an estimate of importance would be noise."""

_BEAT_SECONDS = 60.0
_ATTEMPTS = 3
"""How often a trial is tried if its process dies: the trial itself may be the cause."""
_HOPELESS = 3
"""After so many failures without one success the set-up is wrong, not the hyper-parameters."""
_INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Trial:
    """One trial as a table shows it.

    ``state``: running, waiting, complete, pruned, failed or interrupted. ``value`` is the monitored
    score (of a pruned trial the last one; None without a score), ``epochs`` how many were trained.
    """

    number: int
    state: str
    value: float | None
    values: dict[str, Any]
    epochs: int
    seconds: float | None
    reason: str = ""

    @property
    def counts(self) -> bool:
        """Whether it counts as one of the requested trials; an interrupted trial does not."""
        return self.state in ("running", "complete", "pruned", "failed")


@dataclass(frozen=True)
class StudyOptions:
    """Where a study is stored, and how it chooses and prunes.

    ``storage`` is a file or a database URL, ``name`` the study's name in it. By default they are
    a journal in the folder of the search, and the name of that folder.
    """

    storage: str | None = None
    name: str | None = None
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0


_OPTIONS = StudyOptions()


class Search:
    """A study, and what its trials have in common.

    A trial trains ``recipe`` for ``epochs``, by default for the epochs of the recipe. Raises
    UsageError if the study was started with another space, recipe or data, and MissingExtraError
    without Optuna.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        recipe: Recipe,
        dataset: FerDataset,
        data: str,
        *,
        epochs: int | None = None,
        options: StudyOptions = _OPTIONS,
    ) -> None:
        self._whole = recipe
        if epochs is not None:
            recipe = with_overrides(recipe, [f"epochs={epochs}"])
        self.folder, self.space, self.recipe, self.dataset = folder, space, recipe, dataset
        self._data, self._options = location(data), options
        require("optuna", "search")
        space.check(recipe)
        check_network(recipe, dataset)
        require_votes(dataset, recipe.loss)
        identity = {
            "space": space.to_dict(),
            # Each worker may use its machine in its own way.
            "recipe": {key: value for key, value in recipe.to_dict().items() if key != "run"},
            "data": {
                key: value for key, value in to_dict(dataset.info()).items() if key != "source"
            },
        }
        self.study = open_study(
            options.storage or str(folder / "study.journal"),
            options.name or folder.name,
            direction="minimize" if self.monitor == "loss" else "maximize",
            identity=identity,
            pruner=make_pruner(options.pruner, recipe.epochs),
        )

    @property
    def monitor(self) -> str:
        """The score to optimise: top1, macro_f1 or loss, of PUBLIC."""
        return self.recipe.stop.monitor

    def trials(self) -> list[Trial]:
        """Return the trials of all workers in the order of their numbers."""
        return [_trial(frozen) for frozen in self.study.get_trials(deepcopy=False)]

    @property
    def best(self) -> Trial | None:
        """The best trial that was trained to its end."""
        ended = [trial for trial in self.trials() if trial.state == "complete"]
        sign = -1 if self.monitor == "loss" else 1
        return max(ended, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def run(
        self,
        trials: int,
        *,
        seconds: float = math.inf,
        reporter: SearchReporter | None = None,
    ) -> None:
        """Run trials until the study has ``trials`` of them, by all workers, or time is up.

        After ``seconds`` no trial is started. The best recipe so far is in ``best.toml``.
        Raises KeyboardInterrupt on Ctrl-C and SIGTERM, and the error of a trial if the first ones
        all failed.
        """
        reporter = reporter or SearchReporter()
        start, failures = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            self._reclaim()
            if sum(trial.counts for trial in self.trials()) >= trials:
                return
            number, error = self._try(reporter)
            reporter.trial_ended(self.trials()[number])
            failures = failures + 1 if error is not None else 0
            if error is not None and failures >= _HOPELESS and self.best is None:
                raise error
            self.write_best()

    def write_best(self) -> Path | None:
        """Write ``best.toml``, which ``fer-edge train --recipe`` reads; None without a trial.

        It has the epochs of the original recipe, not those of a trial.
        """
        best = self.best
        if best is None:
            return None
        ended = sum(trial.counts for trial in self.trials())
        resplit = self.dataset.resplit
        data = f"{self.dataset.source}, {resplit.label if resplit else 'official split'}"
        values = ", ".join(f"{key} = {value}" for key, value in best.values.items())
        synthetic = "SYNTHETIC faces: " if self.dataset.synthetic else ""
        text = (
            f"# fer-edge search {self.study.study_name}: the best of {ended} so far, trial "
            f"{best.number},\n"
            f"# PUBLIC {self.monitor} {best.value:.4f} within {self.recipe.epochs} of the epochs "
            "below\n"
            f"# ({synthetic}{data}).\n"
            f"# Values: {values}\n\n"
        )
        path = self.folder / "best.toml"
        write_text(path, text + recipe_to_toml(self.space.apply(self._whole, best.values)))
        return path

    def importance(self) -> dict[str, float]:
        """Return the fraction of the scores' variance that each parameter explains, largest first.

        By fANOVA (Hutter et al. 2014) over the trials that were trained to their end. Raises
        UsageError if there are too few of them, or they all have the same score.
        """
        ended = [trial for trial in self.trials() if trial.state == "complete"]
        if len(ended) < MIN_FOR_IMPORTANCE:
            raise UsageError(
                f"importance needs {MIN_FOR_IMPORTANCE} trials that were trained to their end, "
                f"and there are {len(ended)}",
                fix="continue with more --trials, or with --pruner none",
            )
        if len({trial.value for trial in ended}) == 1:
            raise UsageError(
                f"all {len(ended)} trials scored the same: no parameter has an importance",
                fix="train longer (--epochs), or widen the space",
            )
        require("sklearn", "search")
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        fractions = get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=0))
        return {key: float(value) for key, value in fractions.items()}

    def _try(self, reporter: SearchReporter) -> tuple[int, Exception | None]:
        """Make one trial; return its number, and why it failed."""
        from optuna import TrialPruned
        from optuna.trial import TrialState

        trial, options = self.study.ask(), self._options
        try:
            trial.set_user_attr("worker", worker())
            trial.set_user_attr("beat", time.time())
            self.study.sampler = make_sampler(options.sampler, options.seed, trial.number)
            values = {
                key: parameter.suggest(trial, key)
                for key, parameter in self.space.parameters.items()
            }
            value = self._train(trial, values, reporter)
        except TrialPruned:
            self._end(trial.number, TrialState.PRUNED)
        except Exception as error:
            if of_signal_handler(error):
                self._interrupted(trial)
                raise
            # Any error: one failed trial must not end the search.
            trial.set_user_attr("reason", _reason(error))
            self._end(trial.number, TrialState.FAIL)
            return trial.number, error
        except BaseException:
            self._interrupted(trial)
            raise
        else:
            self._end(trial.number, TrialState.COMPLETE, value)
        return trial.number, None

    def _train(
        self,
        trial: optuna.Trial,
        values: Mapping[str, Any],
        reporter: SearchReporter,
    ) -> float:
        """Train with ``values``; return the score."""
        from optuna import TrialPruned

        recipe = self.space.apply(self.recipe, values)
        run = create_run(
            self.folder,
            f"trial-{trial.number:04d}",
            recipe,
            self.dataset.info(),
            self._data,
        )
        try:
            reporter.trial_started(trial.number, values)
            watch = _Watch(trial, self.monitor, reporter)
            train(run, recipe, self.dataset, reporter=watch)
        except TrialPruned:
            run.update(status="pruned")
            raise
        finally:
            _drop_weights(run)
        return float(getattr(run.info().best, f"public_{self.monitor}"))

    def _end(self, number: int, state: optuna.trial.TrialState, value: float | None = None) -> None:
        try:
            self.study.tell(number, value, state=state)
        except ValueError:
            # Another worker counted it as lost, while this machine slept, and tries it again.
            if not self.study.get_trials(deepcopy=False)[number].state.is_finished():
                raise

    def _interrupted(self, trial: optuna.Trial) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr("reason", _INTERRUPTED)
        self._end(trial.number, TrialState.FAIL)
        self._again(self.study.get_trials(deepcopy=False)[trial.number])

    def _reclaim(self) -> None:
        """Put trials whose process died back into the queue."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_lost(trial):
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except ValueError:
                    continue  # another worker was faster
                self._again(trial, died=True)

    def _again(self, trial: optuna.trial.FrozenTrial, *, died: bool = False) -> None:
        deaths = int(trial.user_attrs.get("deaths", 0)) + died
        if deaths < _ATTEMPTS:
            attrs = {"deaths": deaths, "again": trial.number}
            self.study.enqueue_trial(dict(trial.params), user_attrs=attrs)


class SearchReporter(TrainingReporter):
    """Receives also each trial's start and end. This one ignores them."""

    def trial_started(self, number: int, values: Mapping[str, Any]) -> None:
        """Trial ``number`` is about to be trained with ``values``."""

    def trial_ended(self, trial: Trial) -> None:
        """A trial has ended."""


class _Watch(TrainingReporter):
    """Reports the score of each epoch to the study, and ends a trial that the study prunes."""

    def __init__(self, trial: optuna.Trial, monitor: str, reporter: TrainingReporter) -> None:
        self._trial, self._monitor, self._reporter = trial, monitor, reporter
        self._beat = time.monotonic()

    def progress(self, stage: str, done: int, total: int) -> None:
        self._reporter.progress(stage, done, total)

    def overview(self, overview: RunOverview) -> None:
        self._reporter.overview(overview)

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        self._reporter.step(epoch, step, loss, images_per_s)
        if time.monotonic() - self._beat > _BEAT_SECONDS:
            self._beat = time.monotonic()
            self._trial.set_user_attr("beat", time.time())

    def epoch(self, row: dict[str, Any]) -> None:
        from optuna import TrialPruned

        self._reporter.epoch(row)
        self._trial.report(row[f"public_{self._monitor}"], row["epoch"])
        if self._trial.should_prune():
            raise TrialPruned

    def saved(self, run: RunFolder, *, finished: bool) -> None:
        self._reporter.saved(run, finished=finished)

    def note(self, text: str) -> None:
        self._reporter.note(text)


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    state = trial.state.name.lower()
    reason = str(trial.user_attrs.get("reason", ""))
    if state == "fail":
        # Without a recorded reason, its process died.
        state = "failed" if reason not in ("", _INTERRUPTED) else "interrupted"
        reason = reason or "its process died"
    start, ended = trial.datetime_start, trial.datetime_complete
    return Trial(
        number=trial.number,
        state=state,
        value=trial.value if state in ("complete", "pruned") else None,
        values=dict(trial.params),
        epochs=trial.last_step or 0,
        seconds=(ended - start).total_seconds() if start and ended else None,
        reason="" if reason == _INTERRUPTED else reason,
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _drop_weights(run: RunFolder) -> None:
    for folder in (run.state, run.tensorboard):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.model, run.best):
        file.unlink(missing_ok=True)
