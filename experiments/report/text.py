"""What the figures say in words; every sentence is derived from them."""

import math
from collections.abc import Collection, Iterable

from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report.measures import AGENT, CONTROL, PAPER, Measures
from vit_patch_env.experiments.report.settings import budget, reasons
from vit_patch_env.experiments.report.statistics import (
    MIN_SEEDS,
    Estimate,
    beaten_by,
    difference,
    pareto_front,
    ratio,
)

_UNTOLD = "not told apart from 0"


def findings(measures: Measures) -> list[str]:
    """Sentences on the outcome, of the paper's claim or of the best agent first."""
    return _said(
        *_outcome(measures),
        against_rules(measures),
        cheaper_best(measures),
        *fronts(measures),
        overhead(measures),
        few_seeds(measures),
        diverged(measures),
    )


def highlights(measures: Measures) -> list[str]:
    """The few of them that a README needs, and how they compare with the paper's."""
    return _said(
        *_outcome(measures),
        cheaper_best(measures),
        few_seeds(measures),
        diverged(measures),
        *against_paper(measures),
    )


def _outcome(measures: Measures) -> list[str]:
    """The paper's claim, and its agent against all patches and the control; or the best agent."""
    if measures.comparison.budget != "epochs":
        return at_equal_cost(measures)
    rivals = (against(measures, AGENT, reference) for reference in (FULL, CONTROL))
    return [claim(measures), *rivals]


def _said(*sentences: str) -> list[str]:
    """Those sentences that there is something to say in."""
    return [sentence for sentence in sentences if sentence]


def claim(measures: Measures) -> str:
    """Whether training is faster than on all patches at a higher accuracy, as in the paper."""
    paper_ratio = PAPER[AGENT].seconds / PAPER[FULL].seconds
    paper_points = PAPER[AGENT].accuracy - PAPER[FULL].accuracy
    said = (
        f"The paper reports, for AgentViT against SimpleViT64, {paper_ratio:.2f} times the "
        f"training time and {_points(paper_points)} points of accuracy."
    )
    time = measures.compare(AGENT, FULL, "seconds", ratio)
    accuracy = measures.compare(AGENT, FULL, "accuracy", difference)
    if not time.n or not accuracy.n:
        return f"{said} Nothing is said about that here: no seed has a finished run of both."
    sides = time.side(1), accuracy.side(0)
    if None in sides:
        found = "One seed that both have cannot tell whether that is so here."
    elif sides == (-1, 1):
        found = "That is reproduced here: it is faster and more accurate."
    else:
        parts = [
            {-1: "it is faster", 0: "its time is not told apart from the same", 1: "it is slower"},
            {-1: "it is less accurate", 0: "its accuracy is not told apart from the same",
             1: "it is more accurate"},
        ]  # fmt: skip
        time_part, accuracy_part = (
            part[side] for part, side in zip(parts, sides, strict=True) if side is not None
        )
        link = "and" if sides in ((1, -1), (0, 0)) else "but"
        found = f"That is not reproduced here: {time_part}, {link} {accuracy_part}."
    return f"{said} {found}"


def at_equal_cost(measures: Measures) -> list[str]:
    """The best agent against the best fixed rule and all patches, where all cost as much."""
    said = [f"Every run had the same budget: {budget(measures.comparison)}."]
    agents, rules = measures.agents(), measures.rules()
    agent, rule = measures.best(agents), measures.best(rules)
    best = [
        f"{measures.title(name)} ({measures.mean(name, 'accuracy'):.4f}) of {_count(methods, noun)}"
        for name, methods, noun in ((agent, agents, "agent"), (rule, rules, "fixed rule"))
        if name is not None
    ]
    if best:
        said.append(
            f"The highest mean test accuracy: {'; '.join(best)}. That the best are picked by the "
            "figures compared here favours them."
        )
    pairs = [(agent, rule), (agent, FULL)]
    if AGENT in measures.methods and agent != AGENT:
        pairs.append((AGENT, FULL))
    return said + [against(measures, one, other) for one, other in pairs if one and other]


def against(measures: Measures, method: str, reference: str) -> str:
    """A method's paired differences to another, in figures and in words."""
    left, right = measures.title(method), measures.title(reference)
    if method not in measures.methods or reference not in measures.methods:
        absent = [n for n in (method, reference) if n not in measures.methods]
        names = " and ".join(measures.title(name) for name in absent)
        return f"{left} is not compared with {right}: there is no finished run of {names}."
    accuracy = measures.compare(method, reference, "accuracy", difference)
    if not accuracy.n:
        return f"{left} is not compared with {right}: no seed has a sound run of both."
    seeds = f"{accuracy.n} paired seeds" if accuracy.n > 1 else "one paired seed"
    costs = "".join(
        f"; training {cost.name} {found.mean:.2f} times{_interval(found)}"
        for cost in reversed(measures.costs)
        if (found := measures.compare(method, reference, cost.measure, ratio)).n
    )
    words = {
        None: "which one seed cannot tell apart from 0",
        -1: f"so that {left} is less accurate",
        0: f"which is {_UNTOLD}",
        1: f"so that {left} is more accurate",
    }[accuracy.side(0)]
    return (
        f"{left} against {right}, over {seeds}: test accuracy {_points(accuracy.mean)} points"
        f"{_interval(accuracy, 100)}, {words}{costs}.{_range(accuracy)}"
    )


def against_rules(measures: Measures) -> str:
    """How the agent's accuracy compares with each fixed rule's but the one told of before.

    That is the paper's agent and the matched control, or, where the budget is not epochs, the best
    agent and the best rule.
    """
    agent: str | None = AGENT
    rule: str | None = CONTROL
    rules = measures.blocks().get("rule", [])
    if measures.comparison.budget != "epochs":
        agent, rules = measures.best(measures.agents()), measures.rules()
        rule = measures.best(rules)
    if agent is None or agent not in measures.methods:
        return ""
    told: dict[str, list[str]] = {}
    for method in rules:
        gain = measures.compare(agent, method, "accuracy", difference)
        if method != rule and gain.n:
            words = {
                None: "with one seed, is not judged against", -1: "is less accurate than",
                0: "is not told apart from", 1: "is more accurate than",
            }[gain.side(0)]  # fmt: skip
            told.setdefault(words, []).append(
                f"{measures.title(method)} ({_points(gain.mean)} points)"
            )
    parts = [f"{words} {listed(names)}" for words, names in told.items()]
    if not parts:
        return ""
    title = measures.title(agent)
    return f"Of the other fixed rules, in test accuracy, {title} {'; it '.join(parts)}."


def cheaper_best(measures: Measures) -> str:
    """The most accurate of the methods that trained in less time than with all patches."""
    points, full = measures.points("seconds"), measures.title(FULL)
    if FULL not in points or measures.comparison.budget == "seconds":
        return ""
    cheaper = {name: point for name, point in points.items() if point[0] < points[FULL][0]}
    if not cheaper:
        return f"No method trained in less time than {full}."
    best = max(cheaper, key=lambda name: cheaper[name][1])
    seconds, accuracy = points[best]
    gain = measures.compare(best, FULL, "accuracy", difference)
    told = f" ({_points(gain.mean)} points{_interval(gain, 100)} against {full})" if gain.n else ""
    return (
        f"Of the {_count(cheaper, 'method')} that trained in less time than {full}, "
        f"{measures.title(best)} has the highest mean test accuracy: {accuracy:.4f}{told} in "
        f"{seconds / points[FULL][0]:.2f} times its training time."
    )


def fronts(measures: Measures) -> list[str]:
    """Which methods no other beats in accuracy and cost, and what beats the agent."""
    sentences = []
    for cost in measures.costs:
        points = measures.points(cost.measure)
        if not points:
            continue
        front = pareto_front(points)
        names = listed(measures.title(name) for name in front)
        sentence = f"By mean accuracy and training {cost.name}, on the Pareto front: {names}."
        if AGENT in points and AGENT not in front:
            better = sorted(beaten_by(AGENT, points), key=lambda name: -points[name][1])
            named = [measures.title(name) for name in better[:3]]
            named += [f"{len(better) - 3} more"] if len(better) > 3 else []
            verbs = ("costs", "is") if len(better) == 1 else ("cost", "are")
            sentence += (
                f" {measures.title(AGENT)} is not on it: {listed(named)} {verbs[0]} no more and "
                f"{verbs[1]} at least as accurate."
            )
        sentences.append(sentence)
    return sentences


def overhead(measures: Measures) -> str:
    """What observing, deciding and learning take of the training time."""
    shares = {name: measures.mean(name, "agent_share") for name in measures.agents()}
    agents = [
        f"{share:.1%} with {measures.title(name)}"
        for name, share in shares.items()
        if math.isfinite(share)
    ]
    words = "Observing, deciding and learning take their share of the training time:"
    return f"{words} {listed(agents)}." if agents else ""


def few_seeds(measures: Measures) -> str:
    """A warning about intervals over few seeds."""
    n_seeds = {len(measures.values(name, "accuracy")) for name in measures.methods} - {0}
    if not n_seeds or min(n_seeds) >= MIN_SEEDS:
        return ""
    low, high = min(n_seeds), max(n_seeds)
    counts = f"{low}" if low == high else f"{low} to {high}"
    if high == 1:
        return "With 1 seed there is no interval: no difference is told apart from chance."
    uneven = (
        ""
        if low == high
        else " Methods have different numbers of seeds: the paired differences compare them, the "
        "plain means do so less well."
    )
    return (
        f"With {counts} seeds a 95 % bootstrap interval cannot reach beyond the lowest and the "
        "highest seed and is too narrow: it holds the true mean less often than 95 times of 100, "
        f"so that a difference called told apart may still be chance.{uneven}"
    )


def diverged(measures: Measures) -> str:
    """Runs whose loss became infinite: their figures are in no mean."""
    runs = [run.path.name for run in measures.comparison.runs.values() if run.diverged]
    return f"Diverged, and left out of every mean and plot: {listed(runs)}." if runs else ""


def against_paper(measures: Measures) -> list[str]:
    """How the figures differ from the paper's, and the reasons that the settings give."""
    if measures.comparison.budget != "epochs":
        return reasons(measures.comparison)
    ours = [name for name in PAPER if name in measures.points("seconds")]
    if not ours:
        return []
    figures = [
        f"{measures.title(name)} {measures.mean(name, 'accuracy'):.4f} (paper "
        f"{PAPER[name].accuracy:.4f}) in {measures.mean(name, 'seconds'):,.0f} s (paper "
        f"{PAPER[name].seconds:,.0f} s)"
        for name in ours
    ]
    sentences = [f"Accuracy and training time beside the paper's: {'; '.join(figures)}."]
    if len(ours) > 1:
        for what, sign in (("accuracy", -1), ("seconds", 1)):
            here = sorted(ours, key=lambda name: sign * measures.mean(name, what))
            there = sorted(ours, key=lambda name: sign * getattr(PAPER[name], what))
            order = "most to least accurate" if what == "accuracy" else "fastest to slowest"
            names = ", ".join(measures.title(name) for name in here)
            same = "as in the paper" if here == there else (
                "in the paper " + ", ".join(measures.title(name) for name in there)
            )  # fmt: skip
            sentences.append(f"From {order}: {names}; {same}.")
    return sentences + reasons(measures.comparison)


def listed(names: Iterable[str]) -> str:
    """Names in a row with `and` before the last; semicolons where a name has a comma."""
    names = list(names)
    separator = "; " if any("," in name for name in names) else ", "
    return " and ".join(filter(None, [separator.join(names[:-1]), *names[-1:]]))


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _interval(value: Estimate, scale: float = 1) -> str:
    """The interval in brackets after a figure."""
    sign = "+" if scale == 100 else ""
    low, high = (f"{scale * end:{sign}.2f}" for end in (value.low, value.high))
    return f" [{low}, {high}]" if value.n > 1 else ""


def _range(value: Estimate) -> str:
    """The lowest and highest seed, where there are too few for an interval to be trusted."""
    if not 1 < value.n < MIN_SEEDS:
        return ""
    low, high = _points(value.lowest), _points(value.highest)
    return f" By seed the accuracy differs by {low} to {high} points."


def _count(methods: Collection[str], noun: str) -> str:
    return f"{len(methods)} {noun}" + ("" if len(methods) == 1 else "s")
