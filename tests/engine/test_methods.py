"""Every method and every kind of target: exact counts, the same epochs, and stopping changes nothing."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import nn
from toy import StopsItself, ToyTask, same_bits

from detect_prune.engine.checkpoint import load_checkpoint
from detect_prune.engine.pipeline import prune, train
from detect_prune.engine.precision import PRECISIONS, Precision
from detect_prune.engine.settings import Settings, check
from detect_prune.engine.stop import Stopped
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import METHODS, GlobalADMM, prunable_weights

DENSE_STEPS, LATER_STEPS = 8, 32 + 16
RECIPE = ToyTask.recipe.with_options(
    dense={"epochs": 1}, admm={"epochs": 4, "weight_decay": 1e-4}, retrain={"epochs": 2, "ema": 0.9, "clip": 5.0}
)


def run(folder, task=None, **options):
    task = task or ToyTask()
    removes = METHODS.get(options.get("method"), METHODS["admm"]).prunes != "never"
    defaults = {"ratio": 0.6 if removes else None, "train_dense": True, "precision": Precision(), "recipe": RECIPE}
    return prune(task.model, task=task, folder=folder, **(defaults | options))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_the_same_epochs_and_stopping_changes_nothing(tmp_path, method):
    task = ToyTask()
    straight = run(tmp_path / "straight", task, method=method)
    assert task.asked == DENSE_STEPS + (0 if method == "dense" else LATER_STEPS)
    # Layer by layer it is 32 - 19, 256 - 153 and 32 - 19.
    wanted = 320 if METHODS[method].prunes == "never" else 129 if method == "admm-layerwise" else 128
    assert straight.stages[-1]["kept"] == wanted
    assert load_checkpoint(straight.folder / "last.pt")["identity"]["method"] == method
    stops = (5,) if method == "dense" else (DENSE_STEPS + 13, DENSE_STEPS + 32 + 5)
    for stop in stops:
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            run(folder, StopsItself(stop), method=method)
        resumed = run(folder, method=method, resume=True)
        same_bits(straight, resumed)


def test_the_rows_tell_what_was_done(tmp_path):
    names = {
        method: [stage["name"] for stage in run(tmp_path / method, method=method).stages]
        for method in ("magnitude", "dense-longer", "dense")
    }
    assert names["magnitude"] == ["dense", "cut", "cut + batch norm re-estimated", "retrained"]
    assert names["dense-longer"] == ["dense", "dense, trained longer"]
    assert names["dense"] == ["dense"]


def test_a_run_that_chose_its_precision_says_how_to_repeat_it(tmp_path, capsys):
    chosen = run(tmp_path / "chosen", method="magnitude", precision=None)
    (name,) = re.findall(r"to repeat it: --precision (\S+)", capsys.readouterr().out)
    assert json.loads((chosen.folder / "metrics.json").read_text())["precision"] == str(PRECISIONS[name])
    repeated = run(tmp_path / "repeated", method="magnitude", precision=PRECISIONS[name])
    assert "fastest" not in capsys.readouterr().out
    same_bits(chosen, repeated)


def test_a_floor_that_binds_is_said(tmp_path, capsys):
    task = ToyTask()
    with torch.no_grad():
        task.model[8].weight.mul_(1e-4)
    result = run(tmp_path / "run", task, method="magnitude", train_dense=False, floor=0.5)
    said = "The floor kept 8.weight from losing more."
    assert said in capsys.readouterr().out and said in str(result)
    assert said in (result.folder / "index.html").read_text()
    layers = json.loads((result.folder / "metrics.json").read_text())["layers"]
    assert [layer["floor binds"] for layer in layers] == [False, False, True]
    assert layers[2]["kept"] == 6  # half of 0.4 of 32


def test_a_trained_network_is_only_measured_by_the_method_dense(tmp_path):
    task = ToyTask()
    task.trained = True
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    result = run(tmp_path / "run", task, method="dense", train_dense=None)
    assert task.asked == 0 and [stage["name"] for stage in result.stages] == ["dense"]
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())


def test_a_network_that_is_not_trained_is_trained_unless_it_is_not_wanted(tmp_path):
    for wanted, epochs in ((None, RECIPE.dense.epochs), (False, 0)):
        task = ToyTask()
        run(tmp_path / f"run{wanted}", task, method="dense", train_dense=wanted)
        assert task.asked == epochs * task.steps_per_epoch


def test_what_train_has_trained_is_trained(tmp_path):
    task = ToyTask()
    train(task.model, task=task, folder=tmp_path / "dense", recipe=RECIPE, precision=Precision())
    asked = task.asked
    run(tmp_path / "run", task, method="dense", train_dense=None)
    assert task.asked == asked


@pytest.mark.parametrize(("updates", "told"), [(4, True), (32, False)])
def test_weights_that_have_not_met_z_are_told(tmp_path, capsys, updates, told):
    """Four updates are too few for W and Z to meet."""
    recipe = replace(ToyTask.recipe, updates=updates)
    folder = run(tmp_path / "run", recipe=recipe).folder
    said = capsys.readouterr().out
    assert said.count("had not come to its end") == told
    metrics = json.loads((folder / "metrics.json").read_text())
    found = metrics["before the cut"]
    assert found["update"] == updates and (max(found["primal"].values()) > 0.05) == told
    assert all((f"{name} (" in said) == (primal > 0.05) for name, primal in found["primal"].items())
    assert any("had not come to its end" in note for note in metrics["notes"]) == told
    assert ("had not come to its end" in (folder / "index.html").read_text()) == told


def test_gradual_pruning_tightens_along_the_cubic(tmp_path):
    folder = run(tmp_path / "run", method="gradual").folder
    kept = [record["kept"] for record in load_checkpoint(folder / "last.pt")["history"] if "kept" in record]
    wanted = [1 - 0.6 * (1 - (1 - i / 32) ** 3) for i in range(1, 33)]
    assert kept == pytest.approx(wanted, abs=1 / 320)


@pytest.mark.parametrize("method", ["admm-layerwise", "gradual", "dense-longer"])
def test_all_but_admm_is_regularised_as_in_retraining_throughout(tmp_path, monkeypatch, method):
    """Only the penalty of ADMM is at odds with weight decay, and dropout was only found to help ADMM."""
    decays, dropouts, build = [], [], Trainer.__init__

    def watched(trainer, *arguments, **options):
        build(trainer, *arguments, **options)
        groups = trainer.optimizer.param_groups
        by_weight = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
        dropouts.append(trainer.phase.dropout)
        decays.append({by_weight[id(weight)] for weight in prunable_weights(trainer.model).values()})

    monkeypatch.setattr(Trainer, "__init__", watched)
    recipe = RECIPE.with_options(
        admm={"weight_decay": 2e-3, "dropout": 0.3}, retrain={"weight_decay": 1e-3, "dropout": 0.2, "epochs": 1}
    )
    run(tmp_path / "run", method=method, train_dense=False, recipe=recipe)
    held = {"admm-layerwise": [{0.0}], "gradual": [{1e-3}]}.get(method, [])
    assert decays == [*held, {1e-3}]
    assert dropouts == {"admm-layerwise": [0.3, 0.2], "gradual": [0.2, 0.2]}.get(method, [0.2])


def test_layerwise_ratios_may_differ(tmp_path):
    ratio = {"0.weight": 0.5, "4.weight": 0.75, "8.weight": 0.25}
    result = run(tmp_path / "run", method="admm-layerwise", ratio=ratio)
    layers = json.loads((result.folder / "metrics.json").read_text())["layers"]
    assert {layer["layer"]: layer["kept"] for layer in layers} == {"0.weight": 16, "4.weight": 64, "8.weight": 24}


class Wide(ToyTask):
    """Its first layer has nine positions a picture, the others have one."""

    def __init__(self):
        super().__init__()
        first, *rest = self.model
        self.model = nn.Sequential(
            nn.Sequential(nn.ZeroPad2d(1), first, nn.AdaptiveMaxPool2d(1)), *(deepcopy(module) for module in rest)
        )


def test_a_budget_of_multiplications_is_kept(tmp_path):
    last = run(tmp_path / "run", Wide(), budget="macs", method="magnitude").stages[-1]
    wanted = 0.4 * (9 * 32 + 256 + 32)
    assert wanted - 9 < last["macs_nonzero"] <= wanted and last["kept"] != 128


def test_a_budget_of_bytes_counts_what_a_weight_is_stored_in(tmp_path):
    result = run(tmp_path / "run", budget="bytes", bits={"4": 8, "*": 16}, method="magnitude", ratio=0.5)
    weights = prunable_weights(result.model)
    spent = sum(int(w.count_nonzero()) * (1 if name == "4.weight" else 2) for name, w in weights.items())
    assert 192 - 2 < spent <= 192  # half of 256 + 2 (32 + 32)


def test_a_pattern_holds_to_the_end(tmp_path):
    result = run(tmp_path / "run", pattern="2:4", ratio=None)
    for name, weight in prunable_weights(result.model).items():
        inputs = weight.shape[1]
        groups = (weight.detach().flatten(1) != 0).view(-1, min(inputs, 4)).sum(1)
        assert (groups == 2).all(), name
    blocks = run(tmp_path / "blocks", pattern="1x4").model[4].weight.detach().view(4, 4, 16) != 0
    assert (blocks.all(1) | ~blocks.any(1)).all()


def test_the_recipe_says_how_admm_prunes_where_the_caller_does_not():
    recipe = replace(RECIPE, gradual=True, importance="taylor")

    def chosen(method="admm", recipe=None, **options):
        settings = check(ToyTask(), Settings(ratio=0.6, method=method, **options), recipe).settings
        return settings.importance, settings.gradual

    assert chosen() == ("lamp", False) and chosen(recipe=recipe) == ("taylor", True)
    assert chosen(recipe=recipe, importance="raw", gradual=False) == ("raw", False)
    # One ratio for all layers is compared with the same in each: nothing else is to differ.
    assert chosen("admm-layerwise", recipe=recipe) == ("taylor", True)
    assert chosen("admm-layerwise") == ("raw", False)
    assert check(ToyTask(), Settings(pattern="2:4"), recipe).settings.gradual is False
    assert chosen("gradual", recipe=recipe) == ("raw", False) and chosen("lamp", recipe=recipe) == ("lamp", False)


def test_settings_are_the_same_however_they_were_given(tmp_path):
    given = {"exclude": ["8.*"], "budget": "bytes", "bits": {"4.*": 8}}
    first = run(tmp_path / "run", method="magnitude", **given)
    again = {"exclude": ("8.*",), "budget": "bytes", "bits": MappingProxyType({"4.*": 8})}
    same_bits(first, run(tmp_path / "run", method="magnitude", resume=True, **again))


def test_what_the_recipe_said_is_done_and_kept(tmp_path):
    recipe = replace(RECIPE, gradual=True, importance="taylor")
    straight = run(tmp_path / "straight", recipe=recipe)
    metrics = json.loads((straight.folder / "metrics.json").read_text())
    assert metrics["settings"]["gradual"] is True and metrics["settings"]["importance"] == "taylor"
    assert not {"gradual", "importance"} & metrics["recipe"].keys()
    assert load_checkpoint(straight.folder / "last.pt")["identity"]["importance"] == "taylor"
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", StopsItself(DENSE_STEPS + 13), recipe=recipe)
    resumed = run(tmp_path / "stopped", recipe=recipe, resume=True)
    at_once = run(tmp_path / "at once", recipe=RECIPE, importance="taylor")

    def values(result):
        return torch.cat([value.flatten().float() for value in result.model.state_dict().values()])

    assert torch.equal(values(straight), values(resumed)) and not torch.equal(values(straight), values(at_once))


@pytest.mark.parametrize("gradual", [False, True])
def test_admm_s_ratio_may_grow(tmp_path, monkeypatch, gradual):
    kept, update = [], GlobalADMM.update

    def watched(admm):
        report = update(admm)
        kept.append(sum(share * admm.weights[name].numel() for name, share in report.kept.items()))
        return report

    monkeypatch.setattr(GlobalADMM, "update", watched)
    result = run(tmp_path / "run", gradual=gradual, recipe=replace(RECIPE, updates=32))
    assert result.stages[-1]["kept"] == 128 and len(kept) == 32
    assert kept == sorted(kept, reverse=True) and (kept[0] > 250) == gradual


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "magic"}, "no method is called 'magic'; there are admm"),
        ({"method": "lamp", "importance": "raw"}, "can't be chosen for lamp"),
        ({"method": "gradual", "importance": "fisher"}, "measured from gradients"),
        ({"method": "gradual", "gradual": True}, "choice of ADMM's"),
        ({"ratio": None}, "ratio is missing"),
        ({"ratio": {"0.weight": 0.5}}, "for the layer-wise method"),
        ({"method": "admm-layerwise", "ratio": {"0.weight": 0.5}}, "name every pruned layer"),
        ({"pattern": "2:4"}, "no ratio can be given"),
        ({"pattern": "4:2", "ratio": None}, "0 < n < m"),
        ({"pattern": "2x4"}, "no pattern of zeros"),
        ({"budget": "dollars"}, "no budget of 'dollars'"),
        ({"budget": "macs", "method": "admm-layerwise"}, "shared by all layers"),
        ({"bits": {"4": 8}}, "bits a weight matter"),
        ({"budget": "bytes", "bits": {"nosuch": 8}}, "'nosuch' matches no"),
        ({"method": "dense", "exclude": ["nosuch"]}, "'nosuch' matches no"),
        ({"method": "dense-longer", "ratio": 0.5}, "removes nothing: a ratio can't"),
        ({"method": "dense", "pattern": "2:4", "floor": 0.1}, "a pattern and a floor can't"),
        ({"method": "dense", "budget": "macs"}, "a budget of macs can't"),
        ({"method": "dense", "bits": {"4": 8}}, "bits a weight can't"),
        ({"method": "dense", "gradual": True}, "choice of ADMM's; dense has none"),
        ({"pattern": "1x16", "ratio": 0.9}, "at least one block of 16 weights"),
        ({"pattern": "2:4", "ratio": None, "floor": 0.05}, "a floor is for a budget"),
        ({"method": "admm-layerwise", "floor": 0.05}, "a floor is for a budget"),
        ({"freeze": 4}, r"4\.weight must not be trained.*exclude"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_written(tmp_path, options, match):
    task, options = ToyTask(), dict(options)
    if "freeze" in options:
        task.model[options.pop("freeze")].requires_grad_(False)
    if not options.get("method", "").startswith("dense"):
        options = {"ratio": 0.6, **options}
    with pytest.raises(DetectPruneError, match=match):
        check(task, Settings(**options))
    with pytest.raises(DetectPruneError, match=match):
        run(tmp_path / "run", task, **options)
    assert not (tmp_path / "run").exists() and task.asked == 0
