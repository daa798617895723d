"""What a study came to: tables on the console, and the files `best.json` and `trials.csv`."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from vit_patch_env.experiments.options.commands import TrainOptions, TuneOptions, on_this_machine
from vit_patch_env.experiments.options.flat import command, flat
from vit_patch_env.experiments.process.output import TextTable, print_table
from vit_patch_env.experiments.run_folder.folder import provenance, write_json
from vit_patch_env.experiments.tune.space import Dimension, with_values
from vit_patch_env.experiments.tune.study import TrialRecord
from vit_patch_env.system.files import replacing

BEST, TRIALS = "best.json", "trials.csv"

N_SHOWN = 5
"""Number of the best trials that are shown."""


class Summary(NamedTuple):
    """A study's trials, best first, and how much each value matters.

    Attributes:
        done: the trials that reached the end of their budget, best first.
        first: the trial with the values of the options, if it did.
        states: number of trials in each state, in words, without those that were done again.
        importance: share of each value in the variance of the accuracy.
    """

    done: Sequence[TrialRecord]
    first: TrialRecord | None
    states: str
    importance: Mapping[str, float]

    @property
    def best(self) -> TrialRecord:
        """The best trial; of equal ones, the first."""
        return self.done[0]


def summarise(records: Sequence[TrialRecord], importance: Mapping[str, float]) -> Summary:
    """The summary of these trials."""
    done = [one for one in records if one.accuracy is not None]
    done.sort(key=lambda one: (-(one.accuracy or 0.0), one.number))
    states = [one.state for one in records if one.state != "interrupted"]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
    first = next((one for one in done if one.number == 0), None)
    return Summary(done, first, ", ".join(counts), importance)


def best_command(options: TrainOptions, record: TrialRecord) -> str:
    """The command that trains with the values of a trial."""
    return command("train", with_values(options, record.values), TrainOptions())


def tune_command(options: TuneOptions) -> str:
    """The command of a study, with all values that were given: they are not searched."""
    options, values = on_this_machine(options), flat(options)
    given = tuple(name for name in options.given if not isinstance(values[name], bool))
    return command("tune", options, TuneOptions(), given)


def write_summary(
    path: Path,
    summary: Summary,
    records: Sequence[TrialRecord],
    options: TuneOptions,
    train_options: TrainOptions,
) -> None:
    """Write `trials.csv` and, once a trial is done, `best.json`; warn if the disk is full."""
    rows = pd.DataFrame([{**one._asdict(), **one.values} for one in records])
    try:
        with replacing(path / TRIALS) as partial:
            rows.drop(columns="values", errors="ignore").to_csv(partial, index=False)
        if summary.done:
            write_json(path / BEST, _best(summary, options, train_options))
    except OSError as error:
        warnings.warn(
            f"{BEST} and {TRIALS} cannot be written in {path}: {error.strerror}; the study "
            "continues, and writing is retried after the next trial",
            stacklevel=2,
        )


def _best(summary: Summary, options: TuneOptions, train_options: TrainOptions) -> dict[str, Any]:
    """The content of `best.json`."""
    best, first = summary.best, summary.first
    made = provenance(tune_command(options))
    made["versions"]["optuna"] = version("optuna")
    return {
        "command": best_command(train_options, best),
        "val_accuracy": best.accuracy,
        "first_trial_val_accuracy": None if first is None else first.accuracy,
        "trial": best.number,
        "values": best.values,
        "n_selected": best.n_selected,
        "seeds": list(options.seeds),
        "trials": summary.states,
        "importance": dict(summary.importance),
        "made_by": made,
    }


def show_summary(summary: Summary, dimensions: Sequence[Dimension], console: Console) -> None:
    """Print the best trials, and the values of the best one beside those of the options."""
    trials = TextTable("Best trials", [], ["Trial", "Val accuracy", "Patches", "Seconds"])
    for one in summary.done[:N_SHOWN]:
        cells = (f"{one.accuracy:.2%}", f"{one.n_selected:.1f}", f"{one.seconds:.0f}")
        trials.add_row(str(one.number), *cells)
    print_table(trials, console)
    values = TextTable(
        "Values of the best trial", ["Value", "Searched"], ["Trial 0", "Best", "Importance"]
    )
    for dimension in dimensions:
        share = summary.importance.get(dimension.name)
        values.add_row(
            dimension.name,
            dimension.searched,
            str(dimension.start),
            str(summary.best.values[dimension.name]),
            "" if share is None else f"{share:.0%}",
        )
    print_table(values, console)
