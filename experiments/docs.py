"""`make tables`: tables of the documentation, generated from the declarations they describe.

They are between the markers `<!-- name -->` and `<!-- /name -->` of the pages in `docs/`.
"""

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vit_patch_env.agents import RULES, SCHEDULES
from vit_patch_env.arguments import Search, declared
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.augment import AUGMENTATIONS
from vit_patch_env.experiments.agents_by_name.stable_baselines import SEARCHED
from vit_patch_env.experiments.agents_by_name.table import AGENTS
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.options.commands import AgentOptions
from vit_patch_env.experiments.plan.devices import ACCELERATORS
from vit_patch_env.experiments.task_set.table import TASKS
from vit_patch_env.models import model_class
from vit_patch_env.names import ModelName
from vit_patch_env.observation import OBSERVATIONS
from vit_patch_env.reward import REWARDS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def arguments_table(kind: Any) -> str:
    """The arguments that a class declares, with values, default and meaning."""
    rows = []
    for one in declared(kind):
        resume = "" if one.changes_run else " (may change on resume)"
        rows.append((f"`{one.name}`", one.expected, f"`{one.default!r}`", one.doc + resume))
    return _table(("argument", "values", "default", "meaning"), rows)


def described_table(entries: dict[Any, Any], heading: str, meaning: str) -> str:
    """The entries of a table by name, with the first lines of their docstrings."""
    rows = ((f"`{name}`", _first_line(entry)) for name, entry in entries.items())
    return _table((heading, meaning), rows)


def observations_table() -> str:
    """The observations."""
    of_a_batch = {name: one.finish or one.mean for name, one in OBSERVATIONS.items()}
    return described_table(of_a_batch, "`observation`", "observation of the next batch")


def agents_table() -> str:
    """The agents of this package besides fixed rules and schedules, with their algorithms."""
    own = {name: one for name, one in AGENTS.items() if one.doc}
    rows = ((f"`{name}`", f"`{one.algorithm.__name__}`", one.doc) for name, one in own.items())
    return _table(("`agent`", "class", "what it does"), rows)


def hyperparameter_tables() -> str:
    """The arguments of each agent that has some, below the prefix of their options."""
    groups = [one for one in declared(AgentOptions) if is_dataclass(one.annotation)]
    return "\n".join(
        f"`--{one.name}.*`: {_first_line(one.annotation)}\n\n{arguments_table(one.annotation)}"
        for one in groups
    )


def models_table() -> str:
    """The models, with their source and what they need."""
    rows = []
    for name in get_args(ModelName):
        model = model_class(name)
        row = (_first_line(model), _first_line(sys.modules[model.__module__]))
        rows.append((f"`{name}`", *row, str(model.published_keep_rate or ""), model.package or ""))
    return _table(("`model`", "what it is", "source", "published `keep_rate`", "needs"), rows)


def methods_table() -> str:
    """The methods of comparisons, with their sources."""
    rows = ((f"`{name}`", one.title, one.source) for name, one in METHODS.items())
    return _table(("`methods`", "title in reports", "source"), rows)


def tasks_table() -> str:
    """The set of tasks."""
    rows = []
    for task in TASKS.values():
        values = task.values
        vit = f"dim {values['dim']}, depth {values['depth']}, heads {values['heads']}"
        side = values["image_size"]
        grid = f"{(side // values['patch_size']) ** 2} of {side} x {side} pixels"
        numbers = (f"{values[name]:g}" for name in ("epochs", "step_overhead"))
        rows.append((f"`{task.name}`", task.split, task.data, grid, vit, *numbers))
    heads = ("`tasks`", "for", "data", "patches", "ViT", "epochs", "fixed cost")
    return _table(heads, rows)


def searched_table() -> str:
    """What `vit-patch tune` searches: values of agents, of rewards, and of other algorithms."""
    rows: list[tuple[str, ...]] = []
    for group in declared(AgentOptions):
        if is_dataclass(group.annotation):
            rows += _searched_rows(f"{group.name}.", group.annotation)
    rows += _searched_rows("", EnvConfig)
    rows += [
        (f"`sb3.{name}`", *_range(one), "algorithms that have it") for name, one in SEARCHED.items()
    ]
    return _table(("value", "from", "to", "scale", "for"), rows)


def accelerators_table() -> str:
    """The accelerators that a training is planned for."""
    rows = []
    for name, one in ACCELERATORS.items():
        peaks = (one.peak.get(precision) for precision in ("bf16", "fp16", "fp32"))
        rows.append(
            (
                f"`{name}`",
                one.title,
                f"{one.memory / 1e9:g} GB",
                *("" if peak is None else f"{peak / 1e12:g} T" for peak in peaks),
                f"{one.link / 1e9:g} GB/s",
                one.source,
            )
        )
    heads = ("`--device`", "name", "memory", "bf16", "fp16", "fp32, FLOP/s", "link", "source")
    return _table(heads, rows)


def _searched_rows(prefix: str, kind: Any) -> list[tuple[str, ...]]:
    """The rows of a class's arguments that are searched."""
    rows: list[tuple[str, ...]] = []
    for one in declared(kind):
        if one.search is not None:
            reward = one.search.reward
            owner = f"the reward {reward}" if reward else f"`--agent {_agents_with(prefix[:-1])}`"
            choices = one.expected.removeprefix("one of ") if not one.search.high else ""
            bounds = (choices, "", "choice") if choices else _range(one.search)
            rows.append((f"`{prefix}{one.name}`", *bounds, owner))
    return rows


def _agents_with(group: str) -> str:
    """The names of the agents that have a group of options."""
    return "`, `".join(name for name, one in AGENTS.items() if group in one.options)


def _range(search: Search) -> tuple[str, str, str]:
    """Bounds and scale of what is searched."""
    whole = {"steps": " of the steps", "patches": " of the patches", None: ""}[search.of]
    low, high = (f"{bound:.6g}{whole}" for bound in (search.low, search.high))
    return low, high, "log" if search.log else "linear"


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "environment.md": {
        "observations": observations_table,
        "rewards": partial(described_table, REWARDS, "`reward`", "value of a step"),
        "arguments": partial(arguments_table, EnvConfig),
    },
    "agents.md": {
        "agents": agents_table,
        "rules": partial(described_table, RULES, "`agent`", "what it does"),
        "schedules": partial(described_table, SCHEDULES, "`agent`", "number of patches"),
        "hyperparameters": hyperparameter_tables,
    },
    "own-data.md": {
        "augmentations": partial(described_table, AUGMENTATIONS, "`--augment`", "what it does"),
    },
    "models.md": {"models": models_table},
    "comparing.md": {"methods": methods_table},
    "tasks.md": {"tasks": tasks_table},
    "planning.md": {"accelerators": accelerators_table},
    "tuning.md": {"searched": searched_table},
}
"""What is generated, by page and marker."""


def updated(page: Path) -> str:
    """The text of a page with current tables.

    Raises:
        ValueError: if a marker does not occur exactly once.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES[page.name].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected {begin.strip()} and {end.strip()} each once in {page}")
        before, after = text.split(begin)
        text = f"{before}{begin}{table()}{end}{after.split(end)[1]}"
    return text


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    escaped = (tuple(cell.replace("|", r"\|").replace("<", r"\<") for cell in row) for row in rows)
    lines = (heads, ("---",) * len(heads), *escaped)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").split("\n")[0]


def main(args: list[str]) -> None:
    """Write the tables; with `--check`, exit with a line that names the pages with others."""
    new = {DOCS / name: updated(DOCS / name) for name in TABLES}
    if args != ["--check"]:
        for page, text in new.items():
            page.write_text(text, encoding="utf-8")
        return
    old = [page.name for page, text in new.items() if page.read_text(encoding="utf-8") != text]
    if old:
        sys.exit(f"{', '.join(old)}: tables differ from the declarations: run `make tables`")


if __name__ == "__main__":
    main(sys.argv[1:])
