"""What is added is declared in at most two files; everything else follows from the declaration.

Each addition is made to a copy of the package, as text, and tried there in another process. The
table in CONTRIBUTING.md refers to these tests. Code that uses an addition (the class of an agent,
the training step that a new argument changes) is not counted.
"""

import contextlib
import inspect
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import TINY, TINY_OPTIONS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent


class Edit(NamedTuple):
    """Text that is added to a file, around an anchor; without an anchor, to a new file."""

    file: str
    anchor: str
    after: str
    before: str = ""


NAMES, CONFIG = "vit_patch_env/names.py", "vit_patch_env/config/data.py"
AGENTS = "experiments/agents_by_name/table.py"
COMMANDS = "experiments/options/commands.py"

ADDITIONS: dict[str, tuple[Edit, ...]] = {
    "environment argument": (
        Edit(
            CONFIG,
            "    dataset: Annotated[\n",
            before='    new_share: Annotated[Share, Doc("a new share")] = 0.75\n'
            '    new_place: Annotated[str, SAME_RUN, Doc("a new place")] = "here"\n',
            after="",
        ),
    ),
    "observation": (
        Edit(NAMES, "ObservationName = Literal[\n", '    "ones",\n'),
        Edit(
            "vit_patch_env/observation.py",
            "OBSERVATIONS: dict[ObservationName, Observation] = {\n",
            before="def ones(model: Any, images: Tensor) -> Tensor:\n"
            '    """Ones (n_patches,)."""\n'
            "    return torch.ones(model.n_patches, device=images.device)\n\n\n",
            after='    "ones": Observation(ones, _shares),\n',
        ),
    ),
    "reward": (
        Edit(NAMES, "RewardName = Literal[", '"seven", '),
        Edit(
            "vit_patch_env/reward.py",
            "REWARDS: dict[RewardName, Callable[[StepOutcome], float]] = {\n",
            before="def seven_reward(outcome: StepOutcome) -> float:\n"
            '    """Seven, whatever happens."""\n'
            "    return 7.0\n\n\n",
            after='    "seven": seven_reward,\n',
        ),
    ),
    "model": (
        Edit(NAMES, "ModelName = Literal[\n", '    "plain_vit",\n'),
        Edit(
            "vit_patch_env/models/plain_vit.py",
            "",
            '"""A plain ViT (Nobody 2026)."""\n'
            "from vit_patch_env.models.simple_vit import SimpleViT\n\n"
            "class PlainViT(SimpleViT):\n"
            '    """SimpleViT by another name."""\n\n'
            "MODEL = PlainViT\n",
        ),
    ),
    "augmentation": (
        Edit(NAMES, "AugmentName = Literal[\n", '    "black",\n'),
        Edit(
            "vit_patch_env/data/augment.py",
            "AUGMENTATIONS: dict[AugmentName, Callable[[], Augmentation]] = {\n",
            before="def black() -> Augmentation:\n"
            '    """Black images."""\n'
            "    return Augmentation(crop=False, transform=torch.zeros_like)\n\n\n",
            after='    "black": black,\n',
        ),
    ),
    "fixed rule": (
        Edit(
            "agents/fixed_rules/rules.py",
            "RULES: dict[str, type[SelectorPolicy]] = {\n",
            before="class FirstPatches(SelectorPolicy):\n"
            '    """Keeps the first patches."""\n\n'
            "    def _scores(self, observation: Any, deterministic: bool) -> NDArray[Any]:\n"
            "        return -np.arange(self.n_patches)\n\n\n",
            after='    "first": FirstPatches,\n',
        ),
    ),
    "schedule": (
        Edit(
            "agents/fixed_rules/schedules.py",
            "SCHEDULES: dict[str, Schedule] = {\n",
            before="def half(progress: float, epochs: int) -> float:\n"
            '    """Half of the patches, always."""\n'
            "    return 0.5\n\n\n",
            after='    "half": half,\n',
        ),
    ),
    "agent": (
        Edit(
            AGENTS,
            "AGENTS: dict[str, AgentKind] = {\n",
            before="def make_usual(request: Request) -> BaseAlgorithm:\n"
            '    """An agent by another name."""\n'
            '    return make_rule("random", request)\n\n\n',
            after='    "usual": AgentKind(FixedRule, make_usual, doc="as usual"),\n',
        ),
    ),
    "agent with options": (
        Edit(
            COMMANDS,
            "@arguments\nclass AgentOptions:\n",
            before="@arguments\nclass StrideOptions:\n"
            '    """Hyperparameters of a strided agent."""\n\n'
            '    every: Annotated[Count, Doc("keep one of so many patches")] = 2\n\n\n',
            after="",
        ),
        Edit(
            COMMANDS,
            "    bandit: BanditOptions = field(default_factory=BanditOptions)\n",
            "    stride: StrideOptions = field(default_factory=StrideOptions)\n",
        ),
        Edit(
            AGENTS,
            '    "branching": AgentKind(\n',
            before='    "strided": AgentKind(FixedRule, lambda request: FixedRule("random", '
            "request.training_env, n_keep=16 // request.options.stride.every), "
            'frozenset({"stride"}), doc="in strides"),\n',
            after="",
        ),
    ),
    "comparison method": (
        Edit(
            "experiments/compare/methods.py",
            "METHODS: dict[str, Method] = {\n",
            '    "eight": Method("Eight", "rule", "Nobody 2026", agent="random", n_keep=8),\n',
        ),
    ),
}


def changed_copy(folder: Path) -> None:
    """Copy the package into a folder and make all additions to it."""
    for name in ("vit_patch_env", "agents", "experiments"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for edit in (edit for edits in ADDITIONS.values() for edit in edits):
        path = folder / edit.file
        if edit.anchor:
            text = path.read_text()
            assert text.count(edit.anchor) == 1, edit
            path.write_text(text.replace(edit.anchor, edit.before + edit.anchor + edit.after))
        else:
            assert not path.exists()
            path.write_text(edit.after)


def tried(folder: Path) -> dict[str, Any]:
    """What the changed package shows and does; runs are written below the folder."""
    from vit_patch_env import ViTPatchSelectEnv
    from vit_patch_env.experiments import docs
    from vit_patch_env.experiments.cli import main, parse
    from vit_patch_env.experiments.options.flat import command, same_run
    from vit_patch_env.experiments.options.saved import train_options
    from vit_patch_env.experiments.process import workers

    def output(*args: str) -> str:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*args])
        return shown.getvalue()

    def refusal(*args: str) -> str:
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
            main([*args, *TINY_OPTIONS])
        return shown.getvalue()

    def train(name: str, *args: str) -> dict[str, Any]:
        output("train", *TINY_OPTIONS, "--epochs", "1", "--out", str(folder / name), *args)
        return {
            "config": json.loads((folder / name / "config.json").read_text()),
            "n_selected": (folder / name / "steps.csv").read_text().split()[1:],
            "evaluated": output("evaluate", str(folder / name)),
        }

    env = ViTPatchSelectEnv(
        **TINY,
        new_share=0.5,
        observation="ones+run",
        reward="seven",
        model="plain_vit",
        augment="black",
    )
    observation, _ = env.reset(seed=0)
    reward = env.step(env.action_space.sample())[1]
    trained_on = env.episode.shown[0].flatten(2)  # (batch, channels, height * width)
    try:
        ViTPatchSelectEnv(new_share=2)
        refused = ""
    except ValueError as error:
        refused = str(error)
    words = ["--new-share", "0.5", "--new-place", "there", "--observation", "ones+run"]
    words += ["--reward", "seven", "--model", "plain_vit", "--augment", "black"]
    options = parse(["train", *words])
    run = train("run", "--agent", "usual", *words)
    # This process has imported what the other one needs.
    workers.fork_context = partial(multiprocessing.get_context, "fork")
    compare = [*TINY_OPTIONS, "--epochs", "1", "--methods", "eight", "--seeds", "0"]
    output("compare", *compare, "--out", str(folder / "compare"))
    return {
        "signature": list(inspect.signature(ViTPatchSelectEnv).parameters),
        "refused": refused,
        "observation": observation.tolist(),
        "reward": reward,
        "model": type(env.episode.model).__name__,
        "pixels differ": (trained_on.std(dim=2) > 0).any().item(),
        "same_run": sorted(same_run(options)),
        "command": command("train", options, parse(["train"])),
        "reread": train_options(run["config"]["options"]).env == parse(
            ["train", *TINY_OPTIONS, "--epochs", "1", *words]).env,
        "help": {name: output(name, "--help") for name in ("train", "compare", "pretrain")},
        "tables": {name: make() for page in docs.TABLES.values() for name, make in page.items()},
        "agent": run,
        "fixed rule": train("rule", "--agent", "first"),
        "schedule": train("schedule", "--agent", "half", "--sampling", "spread"),
        "comparison method": json.loads((folder / "compare" / "compare.json").read_text()),
        "agent with options": train("strided", "--agent", "strided", "--stride.every", "8"),
        "options of another agent": refusal("train", "--agent", "random", "--stride.every", "8"),
        "options out of range": refusal("train", "--agent", "strided", "--stride.every", "0"),
        "compared": sorted(path.name for path in (folder / "compare" / "runs").iterdir()),
    }  # fmt: skip


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    changed_copy(folder)
    code = (
        "import json, sys; from pathlib import Path; from tests.test_one_place import tried; "
        "found = tried(Path(sys.argv[1])); Path(sys.argv[1], 'facts.json').write_text("
        "json.dumps(found))"
    )
    path = os.pathsep.join((str(folder), str(ROOT)))
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=folder, check=True,
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder), "COLUMNS": "200"},
    )  # fmt: skip
    return json.loads((folder / "facts.json").read_text())


@pytest.mark.parametrize("what", ADDITIONS)
def test_at_most_two_files_are_edited(what):
    assert 1 <= len({edit.file for edit in ADDITIONS[what]}) <= 2


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("arguments", "| `new_share` | a number in (0, 1] | `0.75` | a new share |"),
        ("arguments", "| `new_place` | text | `'here'` | a new place (may change on resume) |"),
        ("observations", "| `ones` | Ones (n_patches,). |"),
        ("rewards", "| `seven` | Seven, whatever happens. |"),
        ("models", "| `plain_vit` | SimpleViT by another name. | A plain ViT (Nobody 2026). |"),
        ("augmentations", "| `black` | Black images. |"),
        ("rules", "| `first` | Keeps the first patches. |"),
        ("schedules", "| `half` | Half of the patches, always. |"),
        ("agents", "| `usual` | `FixedRule` | as usual |"),
        ("agents", "| `strided` | `FixedRule` | in strides |"),
        ("hyperparameters", "`--stride.*`: Hyperparameters of a strided agent."),
        (
            "hyperparameters",
            "| `every` | an integer in [1, 10^9] | `2` | keep one of so many patches |",
        ),
        ("methods", "| `eight` | Eight | Nobody 2026 |"),
    ],
)
def test_the_documentation_has_a_row(facts, table, row):
    assert row in facts["tables"][table]


def test_an_environment_argument_is_taken_checked_saved_and_compared_on_resume(facts):
    assert {"new_share", "new_place"} <= set(facts["signature"])
    assert facts["refused"] == "new_share must be in (0, 1], got 2"
    assert facts["agent"]["config"]["options"]["env"]["new_share"] == 0.5
    assert facts["reread"]
    assert "--new-share 0.5" in facts["command"]
    assert "new_place" in facts["same_run"]
    assert "new_share" not in facts["same_run"]
    for shown in facts["help"].values():
        assert "--new-share FLOAT in (0, 1]" in shown
        assert "a new share (default: 0.75)" in shown


def test_an_observation_is_seen_by_agents_and_on_the_command_line(facts):
    assert facts["observation"][:16] == [1.0] * 16
    assert len(facts["observation"]) == 16 + 3
    assert facts["agent"]["config"]["options"]["env"]["observation"] == "ones+run"
    assert all("{ones,ones+run," in shown for shown in facts["help"].values())


def test_a_reward_is_given_and_on_the_command_line(facts):
    assert facts["reward"] == 7
    assert facts["agent"]["config"]["options"]["env"]["reward"] == "seven"
    assert all("--reward {seven,paper," in shown for shown in facts["help"].values())


def test_a_model_is_trained_and_on_the_command_line(facts):
    assert facts["model"] == "PlainViT"
    assert facts["agent"]["config"]["options"]["env"]["model"] == "plain_vit"
    assert all("plain_vit" in shown for shown in facts["help"].values())


def test_an_augmentation_is_applied_and_on_the_command_line(facts):
    assert not facts["pixels differ"]
    assert facts["agent"]["config"]["options"]["env"]["augment"] == "black"
    assert all("--augment {black,crop-flip," in shown for shown in facts["help"].values())


@pytest.mark.parametrize("what", ["agent", "fixed rule", "schedule"])
def test_what_picks_patches_trains_a_run_that_evaluate_reads(facts, what):
    assert facts[what]["n_selected"] == ["8"] * 7  # of 16 patches in each step of an epoch
    assert "the agent's patches" in facts[what]["evaluated"]


def test_an_agent_has_options_of_its_own(facts):
    assert facts["agent with options"]["n_selected"] == ["2"] * 7
    assert facts["agent with options"]["config"]["options"]["stride"] == {"every": 8}
    assert "the agent's patches" in facts["agent with options"]["evaluated"]
    assert "--stride belongs to strided, got agent random" in facts["options of another agent"]
    assert "--stride.every must be in [1, 10^9], got 0" in facts["options out of range"]
    for command in ("train", "pretrain"):
        assert "--stride.every INT in [1, 10^9]" in facts["help"][command]
        assert "keep one of so many patches (default: 2)" in facts["help"][command]


def test_a_comparison_method_is_compared(facts):
    assert facts["compared"] == ["eight__0"]
    assert facts["comparison method"]["titles"] == {"eight": "Eight"}
    assert "eight" in facts["help"]["compare"]
