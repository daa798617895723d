"""Heat maps, reports and agents of patches on grids that are no squares."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY, TINY_OPTIONS
from tests.fabricated import fabricate
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.report.heat_maps import selected_patches
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.settings import settings

FLAT = ["--image-size", "16", "32", "--n-patches-desired", "2", "--epochs", "1"]


def test_heat_maps_of_a_run_have_its_rows_and_columns(tmp_path):
    out = tmp_path / "run"
    main(["train", *TINY_OPTIONS, *FLAT, "--agent", "centre", "--out", str(out)])
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    for tag in ("vit/attention", "env/selected"):
        (image,) = events.Images(tag)
        assert (image.height, image.width) == (2 * 16, 4 * 16)


def test_selected_patches_are_plotted_in_rows_and_columns(tmp_path):
    methods = ("simple_vit", "agentvit", "centre")
    env = {"image_size": [16, 64]}
    folder = fabricate(tmp_path / "full", methods=methods, seeds=(0,), epochs=2, side=4, env=env)
    comparison = read_comparison(folder)
    figure = selected_patches(ComparisonMetrics(comparison))
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (2, 8)
    assert "images of 16x64, patches of 8x8" in settings(comparison)["ViT"]


@pytest.mark.long
def test_a_comparison_on_a_flat_grid_is_made_and_reported(tmp_path, capsys):
    out = str(tmp_path / "comparison")
    methods = ["simple_vit", "agentvit", "centre", "quadratic_spread", "bandit"]
    args = ["compare", *TINY_OPTIONS, *FLAT, "--methods", *methods, "--seeds", "0", "--out", out]
    main(args)
    main(args)  # nothing is left to do
    main(["report", out])
    assert (tmp_path / "comparison/plots/selected_patches.png").exists()
    main(["evaluate", f"{out}/runs/centre__0"])
    assert "the agent's patches" in capsys.readouterr().out


def test_agents_of_patches_observe_rows_and_columns_of_the_grid():
    pytest.importorskip("pettingzoo")
    from vit_patch_env.multi_agent import PatchAgents, SharedPolicy

    env = ViTPatchSelectEnv(**TINY | {"image_size": (16, 32), "n_patches_desired": 2})
    agents = PatchAgents(env)
    observations, _ = agents.reset(seed=0)
    places = np.array([observations[f"patch_{index}"][2:4] for index in (0, 3, 4)])
    assert places.tolist() == [[0.25, 0.125], [0.25, 0.875], [0.75, 0.125]]
    seen = []

    class Policy:
        def predict(self, rows, deterministic=False):
            seen.append(rows)
            return np.ones(len(rows), np.int8), None

    mask, _ = SharedPolicy(Policy(), 8, agents.grid).predict(np.zeros(8, np.float32))
    assert mask.shape == (8,)
    assert seen[0][4, 2:4].tolist() == [0.75, 0.125]
    with pytest.raises(ValueError, match=r"grid must be rows and columns of 8 patches, got \(3"):
        SharedPolicy(Policy(), 8, (3, 3))
    with pytest.raises(ValueError, match="n_patches must be a square number, got 8"):
        SharedPolicy(Policy(), 8)
