"""What the JSON files of runs and comparisons must contain; they may contain more."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Interval
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vit_patch_env.checks import InputError, shown
from vit_patch_env.reading import read_json

LARGEST = 1e30
"""Of all amounts in files: FLOPs, seconds, bytes. Sums of them are finite."""

Amount = Annotated[float, Interval(ge=0, le=LARGEST)]
Count = Annotated[int, Interval(ge=1, le=2**53)]
Share = Annotated[float, Interval(ge=0, le=1)]


class _Origin(TypedDict):
    """How a file was made. Strict, and so are the others."""

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)  # type: ignore[misc]

    command: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    python: NotRequired[str]


class _OptionFields(TypedDict):
    env: dict[str, Any]
    seed: int


class _ExtensionFields(TypedDict):
    """How a run was extended, at which step."""

    name: Literal["epochs", "seconds"]
    before: Amount
    after: Amount
    dependent: list[str]
    step: Annotated[int, Interval(ge=0, le=2**53)]


class ConfigFields(_Origin):
    """Fields of config.json. The options have types of their own: `TrainOptions`."""

    options: _OptionFields
    compiled_attention: NotRequired[bool | None]
    extensions: NotRequired[list[_ExtensionFields]]
    machine: NotRequired[str]


class _TestMetrics(TypedDict):
    loss: Annotated[float, Interval(ge=-LARGEST, le=LARGEST)] | None
    accuracy: Share | None
    precision: Share | None
    recall: Share | None
    f1: Share | None


class _TestFields(TypedDict):
    all_patches: _TestMetrics
    agent_patches: _TestMetrics
    n_selected_mean: NotRequired[Amount | None]


class _FigureFields(TypedDict):
    """Figures of the test images; lists are in the order of the classes.

    Those of a class without test images are null, and so are top-5 accuracy for ten classes or
    fewer, the confusion matrix for more than 200, and the calibration error after a divergence.
    """

    n_images: list[Annotated[int, Interval(ge=0, le=2**53)]]
    precision: list[Share | None]
    recall: list[Share | None]
    f1: list[Share | None]
    top_5_accuracy: Share | None
    calibration_error: Share | None
    confusion: list[list[Annotated[int, Interval(ge=0, le=2**53)]]] | None


class _FiguresFields(TypedDict):
    all_patches: _FigureFields
    agent_patches: _FigureFields


class _BestFields(TypedDict):
    """The best epoch of a run, by a metric on the validation images; null if none was finite."""

    epoch: Count | None
    metric: Literal["accuracy", "loss"]
    value: Annotated[float, Interval(ge=-LARGEST, le=LARGEST)] | None


class ResultFields(_Origin):
    """Fields of result.json; numbers that are NaN or infinite are null."""

    test: _TestFields
    figures: NotRequired[_FiguresFields]
    train_seconds: Amount | None
    agent_seconds: Amount | None
    flops: Amount | None
    n_selected_mean: Amount | None
    n_steps: Annotated[int, Interval(ge=0, le=2**53)] | None
    peak_memory_bytes: Amount | None
    diverged: bool
    device_name: str
    precision: str
    machine: str
    files: dict[str, str]
    waiting_share: NotRequired[Share | None]
    slow_share: NotRequired[Share | None]
    classes: NotRequired[list[str]]
    best_epoch: NotRequired[_BestFields]
    stopped_early: NotRequired[bool]


class _AgentFields(TypedDict):
    path: str
    sha256: str


class CompareFields(_Origin):
    """Fields of compare.json; those of methods are by name."""

    methods: list[str]
    seeds: list[Annotated[int, Interval(ge=0, le=2**32 - 1)]]
    env: dict[str, Any]
    preset: NotRequired[str]
    titles: NotRequired[dict[str, str]]
    groups: NotRequired[dict[str, str]]
    sources: NotRequired[dict[str, str]]
    agents: NotRequired[dict[str, _AgentFields]]
    jobs: NotRequired[Count]
    threads: NotRequired[Count]
    images: NotRequired[dict[str, Any]]


class _ImageFields(TypedDict):
    train: Count


class BudgetFields(TypedDict):
    """Further fields of compare.json if the budget is not epochs."""

    images: _ImageFields


class TaskSetFields(_Origin):
    """Fields of tasks.json."""

    tasks: list[str]


class StudyFields(_Origin):
    """Fields of study.json. The options have types of their own: `TuneOptions`."""

    options: dict[str, Any]
    given: NotRequired[list[str]]


CONFIG_FIELDS: TypeAdapter[Any] = TypeAdapter(ConfigFields)
RESULT_FIELDS: TypeAdapter[Any] = TypeAdapter(ResultFields)
COMPARE_FIELDS: TypeAdapter[Any] = TypeAdapter(CompareFields)
BUDGET_FIELDS: TypeAdapter[Any] = TypeAdapter(BudgetFields)
TASK_SET_FIELDS: TypeAdapter[Any] = TypeAdapter(TaskSetFields)
STUDY_FIELDS: TypeAdapter[Any] = TypeAdapter(StudyFields)
TRACKED_FIELDS: TypeAdapter[Any] = TypeAdapter(dict[str, str])
"""Of tracked.json: the run's ids in trackers, by their names."""


def read_checked(path: Path, fields: TypeAdapter[Any]) -> dict[str, Any]:
    """The object in a JSON file, which must have these fields and may have more.

    Raises:
        ValueError: "<folder>: damaged: expected f1 in result.json".
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise InputError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error
    check_fields(path, content, fields)
    return content


def check_fields(path: Path, content: dict[str, Any], fields: TypeAdapter[Any]) -> None:
    """Require these fields in the content of a file.

    Raises:
        ValueError: as `read_checked`.
    """
    try:
        fields.validate_python(content, strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        missing = [str(one["loc"][-1]) for one in errors if one["type"] == "missing"]
        if missing:
            problem = f"expected {', '.join(missing)} in {path.name}"
        else:
            name = ".".join(map(str, errors[0]["loc"]))
            problem = f"{name} in {path.name}: {errors[0]['msg']}, got {shown(errors[0]['input'])}"
        raise InputError(f"{path.parent}: damaged: {problem}") from error
