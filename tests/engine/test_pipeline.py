"""The whole story on a toy: exact counts, what is in the folder, and what is refused before it starts."""

import csv
import json
import math
import re
from copy import deepcopy
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import FP32, ToyTask, run, same_bits, toy_network

from detect_prune.engine import pipeline
from detect_prune.engine.batchnorm import reestimate
from detect_prune.engine.checkpoint import load_checkpoint
from detect_prune.engine.curve import write_curve
from detect_prune.engine.pipeline import prune, train
from detect_prune.engine.recipe import Recipe
from detect_prune.engine.record import record_of
from detect_prune.engine.task import Metrics, NotFinite
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import Masks, make_pruner, prunable_weights
from detect_prune.report import plots


def test_the_file_holds_exactly_the_weights_that_the_ratio_leaves(whole):
    stored = torch.load(whole.folder / "pruned.pt", weights_only=True)
    kept = sum(int(stored[name].count_nonzero()) for name in prunable_weights(whole.model))
    assert kept == 320 - 192
    assert [stage["kept"] for stage in whole.stages] == [320, 128, 128, 128]


def test_each_stage_is_measured_and_kept(whole):
    names = ["dense", "cut", "cut + batch norm re-estimated", "retrained"]
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert [stage["name"] for stage in metrics["stages"]] == names
    for name in names:
        assert name in whole.text
    for stage in metrics["stages"]:
        assert stage["macs_nonzero"] == stage["kept"]  # one position a picture
        assert 0 < stage["bytes_zip"] < stage["bytes_stored"]
    for file in ("dense.pt", "best.pt", "last.pt", "history.png", "kept_per_layer.png", "index.html", "table.md"):
        assert (whole.folder / file).stat().st_size > 0
    assert list((whole.folder / "pictures").glob("*.jpg"))
    assert list(whole.folder.glob("events.out.tfevents.*"))


def test_the_way_is_told_in_a_csv_and_how_each_phase_ended_in_the_metrics(whole):
    history = load_checkpoint(whole.folder / "last.pt")["history"]
    rows = list(csv.DictReader((whole.folder / "history.csv").open()))
    assert [{name: value for name, value in row.items() if value} for row in rows] == [
        {name: str(value) for name, value in record.items()} for record in history
    ]
    said = json.loads((whole.folder / "metrics.json").read_text())["training loss"]
    # Eight steps an epoch, each of them recorded: phases of 64, 64 and 48.
    losses = {row["step"]: row["loss"] for row in history if "loss" in row}
    for phase, end, epochs in (("dense", 64, 8), ("admm", 128, 8), ("retrain", 176, 6)):
        last = [row for row in history if row["phase"] == phase and "loss" in row][-1]
        assert (last["step"], last["epoch"]) == (end, epochs)
        assert said[phase] == pytest.approx(fmean(losses[step] for step in range(end - 7, end + 1)))


def test_what_is_said_of_the_run_stands_under_the_table_as_well(whole):
    """The set of points has a picture that can't be read."""
    for file in ("table.md", "index.html"):
        assert "not read: torn.png" in (whole.folder / file).read_text()


def test_the_page_has_the_settings_that_were_made(whole):
    page = (whole.folder / "index.html").read_text()
    assert json.loads((whole.folder / "metrics.json").read_text())["settings"]["pattern"] is None
    assert re.search(r'>memory</td><td class="left">[\d.]+ [GT]B<', page)
    assert ">network<" in page and ">data<" in page and ">data network<" not in page
    assert '>data memory</td><td class="left">of a goldfish<' in page
    assert ">budget<" in page and ">pattern<" not in page and ">include<" not in page


class ScoredByF1(ToyTask):
    def evaluate(self, model):
        top = super().evaluate(model).score
        return Metrics({"recall": top / 2, "F1": top}, "F1")


def test_the_score_of_any_task_is_in_the_table_the_records_and_the_curve(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "history", lambda records, path, title, scores: drawn.extend(scores) or path.touch())
    result = run(tmp_path / "run", ScoredByF1(), method="dense-longer", ratio=None)
    assert "F1" in result.text and "recall" not in result.text
    assert drawn == ["F1"]
    record = record_of(result.folder)
    scores = [stage["metrics"]["F1"] for stage in result.stages]
    assert [record["dense_F1"], record["F1"]] == scores and "recall" not in record
    assert "F1" in str(write_curve([record], tmp_path)) and "F1, %" in (tmp_path / "accuracy.svg").read_text()
    captions = [f"{stage['name']}: plane" for stage in result.stages]
    page = (result.folder / "index.html").read_text()
    assert (
        re.findall("<figcaption>([^<]*: [^<]*)<", page) == captions == ["dense: plane", "dense, trained longer: plane"]
    )


class Noting(ToyTask):
    """Keeps a copy of each network that is scored."""

    def __init__(self):
        super().__init__()
        self.scored = []

    def evaluate(self, model):
        self.scored.append(deepcopy(model).train())
        return super().evaluate(model)


@pytest.mark.parametrize(
    "every, steps",
    [
        (None, [32, 64, 64 + 32, 128, 128, 128 + 24, 128 + 48]),
        (3, [24, 48, 64, 64 + 24, 64 + 48, 128, 128, 128 + 24, 128 + 48]),
        (100, [64, 128, 128, 128 + 48]),
    ],
)
def test_a_phase_is_scored_on_the_way_as_often_as_asked_and_that_changes_nothing(tmp_path, whole, every, steps):
    result = run(tmp_path / "run", eval_every=every)
    history = load_checkpoint(result.folder / "last.pt")["history"]
    with pytest.raises(DetectPruneError, match="at least one epoch between two scores, not 0"):
        run(tmp_path / "other", eval_every=0)
    assert [record["step"] for record in history if "top-1" in record] == steps
    same_bits(whole, result)


def test_statistics_are_measured_again_after_the_cut(tmp_path):
    task = Noting()
    run(tmp_path / "run", task, method="magnitude", train_dense=False)
    _, cut, again, *_ = task.scored
    before = {name: value.clone() for name, value in cut.named_buffers() if value.is_floating_point()}
    reestimate(cut, task.inputs())
    for name, value in before.items():
        assert not torch.equal(value, again.get_buffer(name))
        torch.testing.assert_close(again.get_buffer(name), cut.get_buffer(name))
    assert all(torch.equal(one, other) for one, other in zip(cut.parameters(), again.parameters()))


class Coarse(ToyTask):
    """Its files have one decimal."""

    def save(self, model, folder, stem):
        state = {name: value.mul(10).round().div(10) for name, value in model.state_dict().items()}
        torch.save(state, folder / f"{stem}.pt")
        return [folder / f"{stem}.pt"]


def test_the_last_figure_is_that_of_the_network_that_was_read_back(tmp_path):
    task = Coarse()
    result = run(tmp_path / "run", task, method="magnitude", train_dense=False)
    in_memory = deepcopy(task.model)
    in_memory.load_state_dict(load_checkpoint(result.folder / "last.pt")["model"])
    figure = result.stages[-1]["metrics"]
    assert figure == task.evaluate(task.load(result.folder, "pruned")).values
    assert figure != task.evaluate(in_memory).values


class Frozen(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("instead", [nn.Identity(), Frozen(16)])
def test_a_network_whose_statistics_stay_has_no_row_for_them(tmp_path, instead):
    task = ToyTask()
    task.model = nn.Sequential(*(deepcopy(instead) if isinstance(m, nn.BatchNorm2d) else m for m in task.model))
    result = run(tmp_path / "run", task)
    assert [stage["name"] for stage in result.stages] == ["dense", "cut", "retrained"]


def test_w_has_met_z_at_the_cut(whole):
    history = load_checkpoint(whole.folder / "last.pt")["history"]
    residuals = [record["primal residual"] for record in history if "primal residual" in record]
    assert len(residuals) == 32 and residuals[-1] < 0.05


def test_the_network_as_cut_is_better_than_with_one_shot_magnitude(whole, tmp_path):
    admm, magnitude = whole.stages, run(tmp_path / "run", method="magnitude").stages
    assert admm[0]["metrics"] == magnitude[0]["metrics"] and admm[1]["name"] == magnitude[1]["name"] == "cut"
    assert admm[1]["metrics"]["top-1"] > magnitude[1]["metrics"]["top-1"] + 0.05


def test_every_update_is_logged_layer_by_layer(whole):
    events = EventAccumulator(str(whole.folder))
    events.Reload()
    for layer in prunable_weights(whole.model):
        series = {
            figure: events.Scalars(f"{figure}/{layer}") for figure in ("kept", "primal residual", "dual residual")
        }
        assert all([event.step for event in each] == list(range(66, 129, 2)) for each in series.values())
        last = json.loads((whole.folder / "metrics.json").read_text())["before the cut"]
        assert series["primal residual"][-1].value == pytest.approx(last["primal"][layer])
        assert series["dual residual"][-1].value == pytest.approx(last["dual"][layer])
        assert series["kept"][-1].value == pytest.approx(last["kept"][layer])


def test_of_a_long_phase_some_steps_and_all_updates_are_logged(tmp_path, monkeypatch, whole):
    monkeypatch.setattr("detect_prune.engine.run.RECORDS_PER_PHASE", 8)
    folder = run(tmp_path / "run").folder
    events = EventAccumulator(str(folder))
    events.Reload()
    history = load_checkpoint(folder / "last.pt")["history"]
    steps = [row["step"] for row in history if "loss" in row]
    assert [event.step for event in events.Scalars("train/loss")] == steps
    rhos = [event.step for event in events.Scalars("train/rho")]
    assert len(rhos) == 32 and set(rhos) < set(steps) and len(steps) < 60
    mine, all_steps = (json.loads((path / "metrics.json").read_text()) for path in (folder, whole.folder))
    assert mine["training loss"] == all_steps["training loss"]


def test_a_small_set_gets_enough_epochs_for_thirty_updates(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(pipeline, "make_pruner", lambda *a, **k: made.append(make_pruner(*a, **k)) or made[-1])
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 1}, retrain={"epochs": 1})
    result = run(tmp_path / "run", recipe=replace(recipe, updates=40))
    # 8 batches an epoch: 4 epochs are the first that have 30 steps, and the schedules end with the last step.
    assert made[0].updates == made[0].done == 32
    kept = json.loads((result.folder / "metrics.json").read_text())["recipe"]
    assert (kept["admm"]["epochs"], kept["updates"]) == (4, 32)
    assert "is 4 epochs long instead of 1: so many give ADMM 32 updates" in capsys.readouterr().out
    page = (result.folder / "index.html").read_text()
    assert "4 epochs of sgd, rate 0.02, warmed up over 5 % of the steps, falling to 2 % of it" in page
    assert "weight decay 0.0001, ema 0.9" in page


def test_the_epochs_stay_where_they_are_enough():
    recipe = replace(ToyTask.recipe, updates=40)
    assert recipe.for_set(5) == recipe  # 8 epochs of 5 steps
    assert recipe.for_set(4) == replace(recipe, updates=32)  # as many as there are steps
    assert recipe.for_set(1).admm.epochs == 30 and recipe.for_set(1).retrain == recipe.retrain
    assert replace(recipe, updates=5).for_set(1).admm.epochs == 8


def test_a_phase_with_room_for_more_updates_has_them(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(pipeline, "make_pruner", lambda *a, **k: made.append(make_pruner(*a, **k)) or made[-1])
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, retrain={"epochs": 1})
    recipe = replace(recipe, updates=4, steps_per_update=3)
    assert recipe.for_set(8) == replace(recipe, updates=21)  # 8 epochs of 8 steps
    assert recipe.for_set(8).for_set(8) == recipe.for_set(8)
    assert replace(recipe, updates=22).for_set(8).updates == 22
    result = run(tmp_path / "run", recipe=recipe)
    assert made[0].updates == made[0].done == 21
    kept = json.loads((result.folder / "metrics.json").read_text())["recipe"]
    assert Recipe.from_dict(kept) == replace(recipe, updates=21, steps_per_update=None)
    # So many steps belong to the recipe's own way to ask for the removal, and rivals of ADMM have them as well.
    for folder, options, updates in (("grows", {"gradual": True}, 4), ("rival", {"method": "gradual"}, 21)):
        run(tmp_path / folder, recipe=recipe, **options)
        assert made[-1].updates == updates


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"importance": "magic"}, "no importance is called 'magic'"),
        ({"floor": 1.5}, "between 0 and 1, not 1.5"),
        ({"exclude": ["head.*"]}, "'head.*' matches no"),
        ({"include": ["backbone.*"]}, "'backbone.*' matches no"),
        ({"ratio": 0.995}, "keeps at least one weight"),
    ],
)
def test_what_can_t_work_is_said_before_anything_is_written(tmp_path, options, match):
    task = ToyTask()
    with pytest.raises(DetectPruneError, match=match):
        run(tmp_path / "run", task, **options)
    assert not (tmp_path / "run").exists() and task.asked == 0


def test_a_network_that_can_t_be_counted_is_not_trained(tmp_path):
    task = ToyTask()
    nn.utils.parametrizations.weight_norm(task.model[8])
    for start in (lambda: run(tmp_path / "run", task), lambda: train(task.model, task=task, folder=tmp_path / "run")):
        with pytest.raises(DetectPruneError, match=r"8\.weight is computed from other parameters"):
            start()
    assert not (tmp_path / "run").exists() and task.asked == 0


@pytest.mark.parametrize("job", [partial(prune, ratio=0.8), train])
def test_a_task_without_steps_is_refused(tmp_path, job):
    task = ToyTask()
    task.steps_per_epoch = 0
    with pytest.raises(DetectPruneError, match="at least one step, not 0"):
        job(task.model, task=task, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_torch_s_random_numbers_are_the_caller_s_afterwards(tmp_path):
    good, bad = ToyTask(), ToyTask(poison_at=3)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    run(tmp_path / "run", good)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(NotFinite):
        run(tmp_path / "other", bad)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_score_that_is_no_number_is_none_in_the_metrics(tmp_path):
    class Unscored(ToyTask):
        def evaluate(self, model):
            metrics = super().evaluate(model)
            score = torch.tensor(metrics.values["top-1"])
            return Metrics({"top-1": score, "correlation": math.nan}, "top-1")

    result = run(tmp_path / "run", Unscored())
    last = json.loads((result.folder / "metrics.json").read_text())["stages"][-1]
    assert last["metrics"]["correlation"] is None and 0 < last["metrics"]["top-1"] < 1


def test_a_setting_that_can_not_be_kept_is_refused_before_the_work(tmp_path):
    class Odd(ToyTask):
        def settings(self):
            return super().settings() | {"folder": tmp_path}

    with pytest.raises(DetectPruneError, match=r"data is .*plain values only"):
        run(tmp_path / "run", Odd())


def test_a_task_without_inputs_is_told(tmp_path):
    class Empty(ToyTask):
        def inputs(self):
            return iter(())

    with pytest.raises(DetectPruneError, match=r"the inputs\(\) of the task 'toy' give nothing"):
        run(tmp_path / "run", Empty(), train_dense=False)


def test_the_network_that_is_handed_back_is_in_evaluation_mode(tmp_path):
    result = run(tmp_path / "run", method="magnitude")
    assert not any(module.training for module in result.model.modules())


def test_notes_of_the_task_are_told_and_a_precision_may_be_named(tmp_path, capsys):
    task = ToyTask()
    task.notes.append("the heads are new")
    run(tmp_path / "run", task, method="magnitude", precision="fp32")
    assert "the heads are new\n" in capsys.readouterr().out
    with pytest.raises(DetectPruneError, match="no precision is called 'fp16'; there are fp32,"):
        run(tmp_path / "other", precision="fp16")


def test_a_step_without_pictures_in_every_epoch_is_left_out_of_the_losses(tmp_path):
    class Torn(ToyTask):
        def batches(self, epoch, start):
            return (None if number == 7 else batch for number, batch in enumerate(super().batches(epoch, start), start))

    result = run(tmp_path / "run", Torn())
    losses = json.loads((result.folder / "metrics.json").read_text())["training loss"]
    assert losses.keys() == {"dense", "admm", "retrain"} and all(0 < loss < 1 for loss in losses.values())


def test_weights_that_diverge_in_admm_are_not_finite(tmp_path, monkeypatch):
    def step(trainer, *arguments):
        value = descend(trainer, *arguments)
        if trainer.pruner is not None and trainer.step == 11:
            trainer.model[0].weight.data[0] = float("nan")
        return value

    descend = Trainer._descend
    monkeypatch.setattr(Trainer, "_descend", step)
    with pytest.raises(NotFinite, match=r"0\.weight are not finite.*epoch 2, step 12 of 64.*smaller --lr"):
        run(tmp_path / "run")


def test_an_infinite_gradient_in_admm_is_not_finite(tmp_path, monkeypatch):
    class Steep(ToyTask):
        def loss(self, model, batch):
            loss, parts = super().loss(model, batch)
            # A square root has an infinite slope at 0, and 0 is a finite loss.
            return loss + (model[0].weight.sum() * 0).abs().sqrt(), parts

    with pytest.raises(NotFinite, match=r"gradient is not finite.*smaller --lr"):
        run(tmp_path / "run", Steep(), train_dense=False, recipe=replace(ToyTask.recipe, updates=64))


def test_updates_wait_for_the_first_pictures_that_can_be_read(tmp_path):
    class Unreadable(ToyTask):
        def batches(self, epoch, start):
            for number, batch in enumerate(super().batches(epoch, start), start):
                yield None if (epoch, number) < (0, 2) else batch

    recipe = ToyTask.recipe.with_options(admm={"epochs": 5})
    result = run(tmp_path / "run", Unreadable(), train_dense=False, recipe=replace(recipe, updates=40))
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["before the cut"]["update"] == 38, "the two that fell into steps without pictures are left out"


def test_excluded_layers_are_not_counted(tmp_path):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 1}, retrain={"epochs": 1})
    result = run(tmp_path / "run", recipe=recipe, exclude=["8"], ratio=0.5)
    assert [(stage["kept"], stage["total"]) for stage in result.stages] == [(288, 288)] + [(144, 288)] * 3
    layers = json.loads((result.folder / "metrics.json").read_text())["layers"]
    assert [layer["layer"] for layer in layers] == ["0.weight", "4.weight"]


def test_the_record_says_on_what_and_how_the_run_was_made(tmp_path):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1})
    task = ToyTask()
    train(task.model, task=task, folder=tmp_path / "run", recipe=recipe, precision=FP32, command="train.py --toy")
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["command"] == "train.py --toy" and record["machine"]["torch"] == torch.__version__


def test_fisher_says_which_layer_has_no_gradient(tmp_path):
    task = ToyTask()
    task.model.register_module("unused", nn.Linear(3, 3))
    task.model.forward = lambda points: nn.Sequential(*list(task.model)[:-1])(points)
    with pytest.raises(DetectPruneError, match=r"unused\.weight is measured from gradients.* excluded, in a new run"):
        run(tmp_path / "run", task, importance="fisher")


def test_nan_stops_with_a_sentence_and_keeps_what_was_finished(tmp_path):
    with pytest.raises(NotFinite, match=r"nan in epoch 3, step 17 of 64.*--lr \(it was 0\.02\)"):
        run(tmp_path / "run", ToyTask(poison_at=64 + 17))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["done"] == ["dense", "score dense"]


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan")])
def test_a_ratio_outside_0_and_1_is_refused(tmp_path, ratio):
    with pytest.raises(DetectPruneError, match="removal ratio"):
        run(tmp_path / "run", ratio=ratio)


def test_training_a_pruned_network_keeps_its_zeros(tmp_path, whole):
    task = ToyTask()
    task.model.load_state_dict(whole.model.state_dict())
    masks = Masks.from_nonzero(task.model)
    recipe = task.recipe.with_options(dense={"epochs": 2, "dropout": 0.5}, retrain={"dropout": 0.2})
    seen = set()
    task.model[3].register_forward_pre_hook(lambda module, _: seen.add(module.p if module.training else None))
    result = train(task.model, task=task, folder=tmp_path / "run", recipe=recipe, masks=masks, precision=FP32)
    assert seen == {None, 0.2}
    for name, weight in prunable_weights(result.model).items():
        assert torch.equal(weight != 0, masks[name])
        assert not torch.equal(weight, prunable_weights(whole.model)[name])


def test_adamw_phases_work_as_well(tmp_path):
    adamw = ToyTask.recipe.with_options(
        dense={"optimizer": "adamw", "lr": 0.01, "epochs": 2},
        admm={"optimizer": "adamw", "lr": 0.01},
        retrain={"optimizer": "adamw", "lr": 0.01, "epochs": 2},
    )
    assert run(tmp_path / "run", recipe=adamw).stages[-1]["kept"] == 128


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'; expected sgd or adamw"),
        ({"lr": -1.0}, "can't be trained with lr -1.0"),
        ({"lr": math.nan, "ema": 1.5}, "can't be trained with lr nan, ema 1.5"),
        ({"epochs": 0}, "epochs 0"),
        ({"distill": -1.0}, "distill -1.0"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_a_phase_says_what_it_expects(wrong, said):
    with pytest.raises(DetectPruneError, match=said):
        ToyTask.recipe.with_options(retrain=wrong)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_that_the_very_last_step_has_spoilt_are_not_delivered(tmp_path, ema):
    """Every loss was finite: that of the last step is from before it."""

    class Spoils(ToyTask):
        def loss(self, model, batch):
            loss, parts = super().loss(model, batch)
            if self.asked == 128 + 48:
                loss.register_hook(lambda gradient: gradient * math.nan)
            return loss, parts

    recipe = ToyTask.recipe.with_options(retrain={"ema": ema, "clip": 0.0})
    with pytest.raises(NotFinite, match=r"0\.weight is NaN or infinite in epoch 6, step 48 of 48.*smaller --lr"):
        run(tmp_path / "run", Spoils(), recipe=recipe)


def test_a_text_where_a_list_of_patterns_belongs_is_refused(tmp_path):
    with pytest.raises(DetectPruneError, match="a list of patterns"):
        run(tmp_path / "run", exclude="0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", ["prune", "train"])
def test_the_seed_is_that_of_dropout(tmp_path, job):
    def weights(name, seed):
        task = ToyTask()
        options = {"recipe": ToyTask.recipe.with_options(dense={"epochs": 1}), "seed": seed}
        if job == "prune":
            result = run(tmp_path / name, task, method="dense", ratio=None, **options)
        else:
            result = train(task.model, task=task, folder=tmp_path / name, precision=FP32, **options)
        return result.model[0].weight

    one, again, other = weights("one", 1), weights("again", 1), weights("other", 2)
    assert torch.equal(one, again) and not torch.equal(one, other)


class Leaks(ToyTask):
    """Its file of a pruned network has lost a layer's zeros."""

    def load(self, folder, stem):
        model = super().load(folder, stem)
        if stem == "pruned":
            model[4].weight.data.add_(1e-3)
        return model


def test_a_file_that_has_lost_its_zeros_is_no_result(tmp_path):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, retrain={"epochs": 1})
    with pytest.raises(AssertionError, match="outside its mask"):
        run(tmp_path / "run", Leaks(), recipe=recipe, method="magnitude")


class Seen(ToyTask):
    """Keeps the weights that it scores. Scores rise by a hundredth each time, or fall."""

    def __init__(self, sign: int):
        super().__init__()
        self.sign, self.seen, self.scores = sign, [], []

    def evaluate(self, model):
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})
        self.scores.append(0.5 + self.sign * len(self.scores) / 100)
        return Metrics({"top-1": self.scores[-1]}, "top-1")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_weights_are_those_of_the_highest_score(tmp_path, sign):
    """Of retraining, the delivered network included."""
    task = Seen(sign)
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, retrain={"epochs": 3})
    run(tmp_path / "run", task, method="magnitude", recipe=recipe, eval_every=1)
    offered = task.scores[3:]  # those of the dense network, of the cut and of its new statistics are not
    assert load_checkpoint(tmp_path / "run" / "best.pt")["metrics"] == {"top-1": max(offered)}


def test_what_is_scored_on_the_way_is_the_average(tmp_path):
    """Which the phase would hand over, and which becomes `best.pt`."""
    task, recipe = Seen(1), ToyTask.recipe.with_options(dense={"epochs": 2})
    train(task.model, task=task, folder=tmp_path / "run", precision=FP32, recipe=recipe, eval_every=1)
    trainer = Trainer(ToyTask(), toy_network(), recipe.dense, FP32)
    torch.manual_seed(0)
    average = {}
    for report in trainer.steps():
        if report.step == ToyTask.steps_per_epoch:
            average = {name: value.clone() for name, value in trainer.average.weights().items()}
    assert average and all(torch.equal(value, task.seen[0][name]) for name, value in average.items())
