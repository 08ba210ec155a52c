"""What is looked up for the user, and when it no longer is."""

import cv2
import numpy as np
import pytest
from tiny import TINY_CFG, write_coco

from detect_prune.cli import prune
from detect_prune.cli.build import build_job, detector_for_use
from detect_prune.cli.main import main
from detect_prune.darknet import write_weights
from detect_prune.engine.precision import PRECISIONS
from detect_prune.errors import DetectPruneError
from detect_prune.tasks.detector import load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    write_coco(tmp_path / "squares")
    (tmp_path / "weights").mkdir()
    return tmp_path


def options(*more):
    words = ["--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", "--ratio", "0.5", "--device", "cpu", "--workers", "0"]
    return prune.build_parser().parse_args([*words, *more])


def test_weights_are_looked_up_but_not_by_a_run_that_began_without(here):
    write_weights(load("tiny.cfg"), "weights/tiny.weights")
    args = options()
    build_job(args)
    assert args.weights == "weights/tiny.weights" and args.seed == 0
    args = options("--resume", "runs/x", "--seed", "0")
    assert "no weights to start from" in build_job(args).says
    assert args.weights is None


@pytest.mark.parametrize(("more", "weight"), [([], 1.0), (["--distill", "0"], 0.0), (["--distill", "0.25"], 0.25)])
def test_the_dense_network_teaches(here, more, weight):
    recipe = build_job(options(*more)).task.recipe
    assert (recipe.dense.distill, recipe.admm.distill, recipe.retrain.distill) == (0.0, weight, weight)


@pytest.mark.parametrize(("weights", "classes", "trained"), [(True, 2, True), (True, 3, False), (False, 2, False)])
def test_a_network_with_random_weights_is_trained_before_it_is_pruned(
    here, monkeypatch, capsys, weights, classes, trained
):
    if weights:
        write_weights(load("tiny.cfg"), "weights/tiny.weights")
    write_coco(here / "data", classes=classes)
    seen = {}

    def fake(model, task, **given):
        seen["trained"] = task.trained
        return type("Result", (), {"text": ""})

    monkeypatch.setattr("detect_prune.engine.pipeline.prune", fake)
    words = ["--cfg", "tiny.cfg", "--data", "data/tiny.yaml", "--ratio", "0.5", "--device", "cpu", "--workers", "0"]
    assert prune.main(words) == 0 and seen == {"trained": trained}
    assert ("so a dense network is trained first" in capsys.readouterr().out) is not trained
    assert prune.main([*words, "--dense-epochs", "3"]) == (2 if trained else 0)
    if trained:
        assert "no dense network is trained: the run begins with weights/tiny.weights" in capsys.readouterr().err


def test_a_backbone_stands_instead_of_weights_and_keeps_others_from_being_looked_up(here):
    write_weights(load("tiny.cfg"), "weights/tiny.weights")
    write_weights(load("tiny.cfg"), "weights/tiny.conv.3")
    args = options("--pretrained", "tiny.conv.3")
    job = build_job(args)
    assert args.weights is None and "a backbone's weights tiny.conv.3" in job.says
    assert any("2 of 3 sections" in note for note in job.task.notes)
    with pytest.raises(DetectPruneError, match="both given"):
        build_job(options("--pretrained", "tiny.conv.3", "--weights", "tiny.weights"))


@pytest.mark.parametrize("option", ["workers", "imgsz", "pretrained"])
def test_what_a_classifier_has_no_use_for_is_refused(option):
    args = prune.build_parser().parse_args(["--model", "lenet5", f"--{option}", "64"])
    with pytest.raises(DetectPruneError, match=f"--{option} is for detectors"):
        build_job(args)


def test_a_detector_has_no_training_pictures_held_out(here):
    with pytest.raises(DetectPruneError, match="--hold-out is for classifiers"):
        build_job(options("--hold-out", "2"))


def test_val_and_detect_take_the_weights_beside_the_cfg_first(here):
    (here / "run").mkdir()
    (here / "run/tiny.cfg").write_text(TINY_CFG)
    from detect_prune.cli import val

    def use():
        return detector_for_use(val.build_parser().parse_args(["--cfg", "run/tiny.cfg", "--device", "cpu"]))

    with pytest.raises(DetectPruneError, match=r"neither run/tiny\.weights nor weights/tiny\.weights\b"):
        use()
    for place in ("weights/tiny.weights", "run/tiny.weights"):
        made = load("tiny.cfg")
        write_weights(made, place)
        used = use()
        assert all((a == b).all() for a, b in zip(made.parameters(), used.parameters()))


def test_a_run_begins_with_the_weights_beside_the_cfg_first(here):
    (here / "run").mkdir()
    (here / "run/tiny.cfg").write_text(TINY_CFG)
    for found in ("weights/tiny.weights", "run/tiny.weights"):
        write_weights(load("tiny.cfg"), found)
        args = options("--cfg", "run/tiny.cfg")
        build_job(args)
        assert args.weights == found


def test_a_bare_name_finds_the_weights_beside_the_file_that_it_means(here):
    (here / "cfg").mkdir()
    (here / "tiny.cfg").rename(here / "cfg/tiny-0.8.cfg")
    write_weights(load("tiny-0.8.cfg"), "cfg/tiny-0.8.weights")
    for name in ("tiny-0.8.cfg", "tiny-0.8"):
        args = options("--cfg", name)
        build_job(args)
        assert args.weights == "cfg/tiny-0.8.weights"
    (here / "cfg/tiny-0.8.weights").rename(here / "tiny-0.8.weights")
    args = options("--cfg", "tiny-0.8")
    build_job(args)
    assert args.weights == "tiny-0.8.weights"


@pytest.mark.parametrize("cfg", ["", ".", "..", "a\0b"])
def test_what_can_be_no_file_is_no_cfg(here, cfg):
    with pytest.raises(DetectPruneError):
        build_job(options("--cfg", cfg))


def test_a_classifier_s_folder_may_be_called_sample(here):
    for part in ("train", "test"):
        for label, grey in (("black", 0), ("white", 255)):
            (here / "sample" / part / label).mkdir(parents=True)
            cv2.imwrite(str(here / "sample" / part / label / "1.png"), np.full((28, 28), grey, np.uint8))
    words = ["--model", "lenet5", "--data", "sample", "--ratio", "0.5", "--device", "cpu"]
    assert not build_job(prune.build_parser().parse_args(words)).sample


@pytest.mark.parametrize("zeros, held", [(0, False), (1, True)])
def test_one_zero_in_loaded_weights_is_enough_to_be_held(here, monkeypatch, zeros, held):
    network = load("tiny.cfg")
    weight = next(parameter for parameter in network.parameters() if parameter.dim() == 4)
    weight.data.view(-1)[:zeros] = 0
    write_weights(network, "pruned.weights")
    seen = {}

    def fake(model, **given):
        seen.update(given)
        return type("Result", (), {"text": ""})

    monkeypatch.setattr("detect_prune.engine.pipeline.train", fake)
    words = ["--cfg", "tiny.cfg", "--weights", "pruned.weights", "--data", "squares/tiny.yaml", "--epochs", "2"]
    assert main(["train", *words]) == 0
    assert (seen["masks"] is not None) is held
    assert seen["command"] == "detect-prune train " + " ".join(words)


def test_random_weights_may_hold_a_zero_by_chance(here, monkeypatch):
    seen = {}

    def with_a_zero(args, world):
        job = build_job(args, world)
        next(parameter for parameter in job.task.model.parameters() if parameter.dim() == 4).data.view(-1)[0] = 0
        return job

    def fake(model, **given):
        seen.update(given)
        return type("Result", (), {"text": ""})

    monkeypatch.setattr("detect_prune.cli.build.build_job", with_a_zero)
    monkeypatch.setattr("detect_prune.engine.pipeline.train", fake)
    assert main(["train", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", "--epochs", "2"]) == 0
    assert seen["masks"] is None


@pytest.fixture
def given(monkeypatch):
    """What the engine is given: by `prune` or `train`, which do nothing."""
    seen = {}

    def fake(model, **given):
        seen.update(given)
        return type("Result", (), {"text": ""})

    for name in ("prune", "train"):
        monkeypatch.setattr(f"detect_prune.engine.pipeline.{name}", fake)
    return seen


def test_the_engine_is_given_what_was_asked_for(here, given):
    words = ["--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", "--ratio", "0.5", "--device", "cpu", "--workers", "0"]
    words += ["--save-every", "2", "--eval-every", "4", "--precision", "bf16", "--seed", "7", "--lr", "0.25"]
    assert prune.main([*words, "--batch", "4", "--imgsz", "64"]) == 0
    assert (given["save_every"], given["eval_every"], given["seed"]) == (120.0, 4, 7), "seconds, epochs"
    assert given["precision"] is PRECISIONS["bf16"]
    task = given["task"]
    assert (task.seed, task.batch, task.fit.size) == (7, 4, (64, 64))
    assert {phase.lr for phase in (task.recipe.dense, task.recipe.admm, task.recipe.retrain)} == {0.25}


def test_zeros_grow_back_where_that_is_asked_for(here, given):
    network = load("tiny.cfg")
    next(parameter for parameter in network.parameters() if parameter.dim() == 4).data.view(-1)[:9] = 0
    write_weights(network, "pruned.weights")
    words = ["--cfg", "tiny.cfg", "--weights", "pruned.weights", "--data", "squares/tiny.yaml", "--device", "cpu"]
    assert main(["train", *words, "--train-zeros"]) == 0 and given["masks"] is None


def test_zeros_that_were_there_before_are_told_of_the_layers_that_are_chosen(here, given, capsys):
    network = load("tiny.cfg")
    network.layers[0].conv.weight.data.view(-1)[:9] = 0
    write_weights(network, "weights/tiny.weights")
    data = str(write_coco(here / "two", classes=2))
    words = ["--cfg", "tiny.cfg", "--data", data, "--ratio", "0.5", "--device", "cpu", "--workers", "0"]
    assert prune.main(words) == 0
    total = sum(layer.conv.weight.numel() for layer in network.layers if hasattr(layer, "conv"))
    assert f"9 of {total:,} weights" in (said := capsys.readouterr().out) and "may grow back" in said
    assert prune.main([*words, "--exclude", "layers.0.*"]) == 0
    assert "may grow back" not in capsys.readouterr().out


def test_a_folder_without_coco_is_not_the_built_in_set(here):
    words = ["--cfg", "tiny.cfg", "--ratio", "0.5", "--device", "cpu", "--data-root", "nowhere"]
    with pytest.raises(DetectPruneError, match="nowhere: there is no COCO here; --data says"):
        build_job(prune.build_parser().parse_args(words))


def test_the_data_of_a_run_may_lie_elsewhere(here):
    (here / "squares/tiny.yaml").rename(here / "moved.yaml")
    assert len(build_job(options("--data", "moved.yaml", "--data-root", "squares")).task.data.train) == 8


def test_a_classifier_s_options_reach_its_task(here):
    for part in ("train", "test"):
        for label, grey in (("black", 0), ("white", 255)):
            (here / "set" / part / label).mkdir(parents=True)
            for number in range(3):
                cv2.imwrite(str(here / "set" / part / label / f"{number}.png"), np.full((28, 28), grey, np.uint8))
    words = ["--model", "lenet5", "--data", "set", "--ratio", "0.5", "--device", "cpu", "--seed", "7"]
    task = build_job(prune.build_parser().parse_args(words)).task
    assert (task.batch, task.seed, len(task.data.train), len(task.data.test)) == (128, 7, 6, 6)
    task = build_job(prune.build_parser().parse_args([*words, "--batch", "2", "--hold-out", "2"])).task
    assert (task.batch, len(task.data.train), len(task.data.test)) == (2, 4, 2)
