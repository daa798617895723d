"""Patch schedules in Hugging Face's and Lightning's trainers."""

import gc
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from vit_patch_env import PatchSchedule, SimpleViT, select_patches
from vit_patch_env.integrations import progress
from vit_patch_env.integrations.training_patches import TrainingPatches

N_PATCHES, N_STEPS = 16, 6
SCHEDULE = {"n_patches": N_PATCHES, "total_steps": N_STEPS}


def tiny_vit():
    return SimpleViT(
        n_classes=2, image_size=32, patch_size=8, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=16
    )


@pytest.fixture(autouse=True)
def _quick_trainer(monkeypatch):
    """Hugging Face's trainer collects garbage, which takes a second in a process of tests."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.fixture
def seen(monkeypatch):
    """(whether in training, patches) of each forward pass of the tiny ViT."""
    calls, forward = [], SimpleViT.forward

    def recorded(self, images, keep=None):
        calls.append((self.training, None if keep is None else keep.tolist()))
        return forward(self, images, keep)

    monkeypatch.setattr(SimpleViT, "forward", recorded)
    return calls


def in_training(calls):
    return [keep for training, keep in calls if training]


def expected(steps, **arguments):
    schedule = PatchSchedule(**SCHEDULE, **arguments)
    return [schedule(step).tolist() for step in steps]


class ForTrainer(torch.nn.Module):
    """A user's model for Hugging Face's `Trainer`, around any ViT."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, pixel_values, labels=None):
        logits = self.vit(pixel_values)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def hugging_face_trainer(folder, schedule, model, per_image=False, **arguments):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from vit_patch_env.integrations.hugging_face import PatchScheduleCallback

    images = [{"pixel_values": torch.full((3, 32, 32), i / 8), "labels": i % 2} for i in range(16)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = {
        "max_steps": N_STEPS, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(str(folder), **values | arguments),
        train_dataset=images,
        eval_dataset=images,
        optimizers=(optimizer, LambdaLR(optimizer, schedule.learning_rate)),
        callbacks=[PatchScheduleCallback(schedule, per_image)],
    )


def lightning_module(vit):
    lightning = pytest.importorskip("lightning.pytorch")

    class Classifier(lightning.LightningModule):
        """A user's module around any ViT."""

        def __init__(self):
            super().__init__()
            self.vit = vit

        def training_step(self, batch, index):
            images, labels = batch
            return cross_entropy(self.vit(images), labels)

        def validation_step(self, batch, index):
            self.vit(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Classifier()


def lightning_trainer(folder, schedule, per_image=False, save_steps=None, **arguments):
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.callbacks import ModelCheckpoint

    from vit_patch_env.integrations.lightning import PatchScheduleCallback

    callbacks = [PatchScheduleCallback(schedule, per_image)]
    if save_steps is not None:
        saving = {"every_n_train_steps": save_steps, "save_top_k": -1, "filename": "{step}"}
        callbacks.append(ModelCheckpoint(folder, **saving))
    values = {
        "max_steps": N_STEPS, "accelerator": "cpu", "devices": 1, "logger": False,
        "enable_checkpointing": save_steps is not None, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder, "num_sanity_val_steps": 1,
    }  # fmt: skip
    return lightning.Trainer(**values | arguments, callbacks=callbacks)


def loader():
    images = torch.linspace(0, 1, 16 * 3 * 32 * 32).view(16, 3, 32, 32)
    return DataLoader(TensorDataset(images, torch.arange(16) % 2), batch_size=4)


def train(framework, folder, schedule, vit=None, resume=None, accumulated=1, **arguments):
    """Train with a framework, and evaluate after each epoch of 4 batches."""
    vit = tiny_vit() if vit is None else vit
    if framework == "lightning":
        arguments["accumulate_grad_batches"] = accumulated
        path = None if resume is None else folder / f"step={resume}.ckpt"
        lightning_trainer(folder, schedule, **arguments).fit(
            lightning_module(vit), loader(), loader(), ckpt_path=path
        )
        return
    if "save_steps" in arguments:
        arguments["save_strategy"] = "steps"
    arguments |= {"gradient_accumulation_steps": accumulated, "eval_strategy": "epoch"}
    path = None if resume is None else str(folder / f"checkpoint-{resume}")
    trainer = hugging_face_trainer(folder, schedule, ForTrainer(vit), **arguments)
    trainer.train(resume_from_checkpoint=path)


FRAMEWORKS = pytest.mark.parametrize("framework", ["hugging face", "lightning"])


@FRAMEWORKS
def test_training_uses_the_patches_of_the_schedule_and_evaluation_all(framework, tmp_path, seen):
    vit = tiny_vit()
    train(framework, tmp_path, PatchSchedule(**SCHEDULE), vit)
    assert in_training(seen) == expected(range(N_STEPS))
    assert [keep for training, keep in seen if not training] == [None] * (len(seen) - N_STEPS)
    assert len(seen) > N_STEPS + 1
    vit.train()
    vit(torch.zeros(1, 3, 32, 32))
    assert seen[-1] == (True, None)  # nothing is left of the callback


@FRAMEWORKS
def test_batches_of_a_step_have_the_same_patches(framework, tmp_path, seen):
    schedule = PatchSchedule(**SCHEDULE)
    train(framework, tmp_path, schedule, accumulated=2)
    assert in_training(seen) == [keep for keep in expected(range(N_STEPS)) for _ in range(2)]


@pytest.mark.one_in(2)
@FRAMEWORKS
def test_a_resumed_run_has_the_same_patches(framework, tmp_path, seen):
    train(framework, tmp_path, PatchSchedule(**SCHEDULE), save_steps=4)
    seen.clear()
    train(framework, tmp_path, PatchSchedule(**SCHEDULE), resume=4)
    assert in_training(seen) == expected(range(4, N_STEPS))


@FRAMEWORKS
def test_each_image_has_its_own_patches(framework, tmp_path, seen):
    train(framework, tmp_path, PatchSchedule(0.5, **SCHEDULE), per_image=True)
    for keep in in_training(seen):
        assert len(keep) == 4
        assert len({tuple(row) for row in keep}) > 1


@FRAMEWORKS
def test_a_budget_of_seconds_ends_the_training_without_its_evaluations(
    framework, tmp_path, seen, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    forward = SimpleViT.forward

    def slow(self, images, keep=None):
        now[0] += 1 if self.training else 100
        return forward(self, images, keep)

    monkeypatch.setattr(SimpleViT, "forward", slow)
    schedule = PatchSchedule(0.5, n_patches=N_PATCHES, seconds=9.5)
    train(framework, tmp_path, schedule, max_steps=50, save_steps=8)
    assert len(in_training(seen)) == 10
    seen.clear()
    schedule = PatchSchedule(0.5, n_patches=N_PATCHES, seconds=9.5)
    train(framework, tmp_path, schedule, max_steps=50, resume=8)
    assert len(in_training(seen)) == 2


@pytest.mark.one_in(4)
@FRAMEWORKS
@pytest.mark.parametrize(
    ("vit", "arguments", "message"),
    [
        (torch.nn.Linear(2, 2), {}, "expected a model of select_patches, .* without one"),
        (tiny_vit(), {"max_steps": 5}, "max_steps must be the length of the schedule, 6, .* got 5"),
        (
            torch.nn.Sequential(tiny_vit(), tiny_vit()), {},
            r"expected one model of select_patches, got vit\.0, vit\.1 in \w+: call each as model",
        ),
        (
            SimpleViT(n_classes=2, image_size=16, patch_size=8, dim=16, depth=1), {},
            "the schedule must be of the model's 4 patches, got one of 16",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_training(framework, tmp_path, vit, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        train(framework, tmp_path, PatchSchedule(**SCHEDULE), vit, **arguments)
    assert "\n" not in str(error.value)


def test_a_schedule_must_be_one():
    with pytest.raises(ValueError, match="schedule must be a PatchSchedule, got 'quadratic'"):
        TrainingPatches("quadratic")


def test_an_interrupted_training_leaves_evaluations_with_all_patches(tmp_path, seen, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    trainer = hugging_face_trainer(tmp_path, PatchSchedule(**SCHEDULE), ForTrainer(tiny_vit()))
    monkeypatch.setattr(trainer, "_clip_grad_norm", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    seen.clear()
    trainer.evaluate()
    assert {keep for _, keep in seen} == {None}


def test_a_model_of_transformers_trains_and_saves_under_its_own_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    plain = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=32, patch_size=8, num_labels=2,
        )
    )  # fmt: skip
    before = plain.classifier.weight.clone()
    schedule = PatchSchedule(**SCHEDULE)
    trainer = hugging_face_trainer(tmp_path, schedule, select_patches(plain))
    trainer.train()
    assert set(trainer.evaluate()) >= {"eval_loss"}
    plain.save_pretrained(tmp_path / "vit")
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "vit")
    assert torch.equal(loaded.classifier.weight, plain.classifier.weight)
    assert not torch.equal(loaded.classifier.weight, before)
    with torch.device("meta"):
        assert tiny_vit().positions.is_meta


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("hugging_face", "transformers", "hf"), ("lightning", "lightning.pytorch", "lightning")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module, package, extra, monkeypatch
):
    name = f"vit_patch_env.integrations.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'vit-patch-env\[{extra}\]'"):
        __import__(name)


def test_the_patches_are_those_of_the_newest_training(seen):
    """An interrupted training may not have left the model as it was."""
    vit, images = tiny_vit(), torch.zeros(2, 3, 32, 32)
    for step in (0, 1):
        patches = TrainingPatches(PatchSchedule(**SCHEDULE))
        patches.attach(vit)
        patches.begin(step)
        vit.train()(images)
    assert in_training(seen) == expected([0, 1])
    patches.detach()
    vit(images)
    assert in_training(seen)[-1] is None


def test_a_step_that_does_not_call_the_model_is_refused():
    patches = TrainingPatches(PatchSchedule(**SCHEDULE))
    vit = tiny_vit()
    patches.attach(vit)
    patches.begin(0)
    with pytest.raises(ValueError, match="a training step that calls SimpleViT"):
        patches.check_called()
    vit.train()(torch.zeros(2, 3, 32, 32))
    patches.check_called()


def test_a_schedule_of_another_grid_is_refused():
    patches = TrainingPatches(PatchSchedule(n_patches=(2, 8), total_steps=6))
    with pytest.raises(ValueError, match=r"of the model's grid, n_patches=\(4, 4\), got \(2, 8\)"):
        patches.attach(tiny_vit())


def test_a_number_of_patches_of_the_users_own_module_is_no_model():
    class Classifier(torch.nn.Module):
        n_patches = N_PATCHES

        def __init__(self):
            super().__init__()
            self.vit = tiny_vit()

        def forward(self, images):
            return self.vit(images)

    module = Classifier().train()
    patches = TrainingPatches(PatchSchedule(0.5, **SCHEDULE))
    patches.attach(module)
    patches.begin(0)
    module(torch.zeros(2, 3, 32, 32))
    patches.check_called()
