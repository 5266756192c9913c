"""A finished run's network, loaded: it scores what the run reports, to the last image; what it can't be is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image

import brsweep
from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.stages.source import data_source
from brsweep.training.checkpoint import load as load_file
from brsweep.training.checkpoint import save as save_file

SHORT = ("schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=3")


def picture_folder(root: Path) -> Path:
    """A folder of 12x10 colour images of two classes: light ones and dark ones with noise between."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 48), ("test", 30)):
        for label, level in (("dark", 90), ("light", 150)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = generator.normal(level, 60, (10, 12, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


KINDS = {
    "synthetic": (),
    "digits": ("data=digits", "model=resnet20"),
    "per channel": ("quant.per_channel=true",),
    "torchvision": ("model=torchvision_resnet18", "data.train_images=160", "quant=w4a4"),
    "clipped": ("quant.clip_value=1", "quant.first_last_bits=null"),
    "image quantized": ("quant.input_bits=8",),
    "bf16": ("precision=bf16",),
    "without validation": ("data.val_fraction=0",),
    "contiguous": ("channels_last=false",),
    "inputs quantized": ("model=mobilenet_v2", "model.width=0.25", "quant=w4a4"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """kind -> a finished run's result; each is trained once."""
    place, results = tmp_path_factory.mktemp("trained"), {}

    def of(kind: str) -> dict:
        if kind not in results:
            if kind == "image folder":
                cache = place / "cache"
                data = ("data=image_folder", f"data.root={picture_folder(place / 'images')}", f"data.cache_dir={cache}")
                overrides = (*data, "data.batch_size=16")
            else:
                overrides = KINDS[kind]
            results[kind] = small_runs.train(*SHORT, *overrides, tmp_path=place)
        return results[kind]

    return of


def scored_images(result: dict) -> tuple[np.ndarray, np.ndarray]:
    images = data_source(result["config"]).load()
    return images.test_images, images.test_labels


def score(network, images: np.ndarray, labels: np.ndarray) -> float:
    return int((network.predict(images).numpy() == labels).sum()) / len(labels)


@pytest.mark.parametrize("kind", [*KINDS, "image folder"])
def test_a_loaded_network_scores_what_the_run_reports(kind, trained):
    result = trained(kind)
    images, labels = scored_images(result)
    torch.set_num_threads(1)
    for which, key in (("best", "test_accuracy"), ("last", "test_accuracy_last")):
        network = brsweep.load(small_runs.folder(result), which, "cpu")
        assert score(network, images, labels) == result[key]
        assert not network.model.training and network.record == result
    assert list(network.classes) == list(data_source(result["config"]).load().classes)


def test_it_takes_what_the_training_took(trained):
    """The test table of the run's own set-up, and the loaded network's preprocessing: equal to the bit."""
    from brsweep.runs.run import Run
    from brsweep.stages.setup import Setup

    result = trained("digits")
    setup = Setup.of(result["config"], Run.of(result["config"]).source)
    network = brsweep.load(result, device="cpu")
    batch, _ = next(setup.tables.test.plain(512))
    mine = network.preprocess(scored_images(result)[0])
    assert torch.equal(batch, mine) and batch.stride() == mine.stride()


def test_the_re_estimated_network_is_loaded_too(tmp_path):
    result = small_runs.train(*SHORT, "reestimate_bn_batches=3", tmp_path=tmp_path)
    images, labels = scored_images(result)
    torch.set_num_threads(1)
    plain, again = (brsweep.load(result, device="cpu", reestimated=r) for r in (False, True))
    assert score(plain, images, labels) == result["test_accuracy"]
    assert score(again, images, labels) == result["reestimated"]["test_accuracy"]
    last = brsweep.load(result, "last", "cpu", reestimated=True)
    assert score(last, images, labels) == result["reestimated"]["test_accuracy_last"]
    different = {
        n.rpartition(".")[2] for n, b in plain.model.named_buffers() if not torch.equal(b, again.model.get_buffer(n))
    }
    assert different == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(torch.equal(p, again.model.get_parameter(n)) for n, p in plain.model.named_parameters())


def test_a_copied_folder_is_enough(trained, tmp_path):
    """In a process of its own, without data, store or sweep around the folder."""
    result = trained("image folder")
    copy = tmp_path / "elsewhere" / result["name"]
    shutil.copytree(small_runs.folder(result), copy)
    images, _ = scored_images(result)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy, torch, brsweep; torch.set_num_threads(1)\n"
        "network = brsweep.load(sys.argv[1], device='cpu')\n"
        "print(network.classes, network.predict(numpy.load(sys.argv[2])).tolist())\n"
        "assert 'brsweep.data.image_folder' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, copy, tmp_path / "images.npy"], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mine = brsweep.load(result, device="cpu").predict(images).tolist()
    assert done.stdout.strip() == f"('dark', 'light') {mine}"


def test_pictures_and_arrays_in_every_form(trained):
    network = brsweep.load(trained("digits"), device="cpu")
    images, _ = scored_images(trained("digits"))
    expected = network.predict(images[:3]).tolist()
    pictures = [Image.fromarray(image[..., 0]) for image in images[:3]]
    for form in (images[:3, ..., 0], torch.from_numpy(images[:3]), list(images[:3]), pictures):
        assert network.predict(form).tolist() == expected
    assert network.predict(images[0]).tolist() == network.predict(pictures[0]).tolist() == expected[:1]
    colour = brsweep.load(trained("synthetic"), device="cpu")
    large = Image.new("RGB", (20, 16), (10, 200, 30))
    flat = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    assert torch.equal(colour.preprocess(large), colour.preprocess(flat))
    assert colour.predict(np.empty((0, 8, 8, 3), np.uint8)).tolist() == []


@pytest.mark.parametrize(
    "images, says",
    [
        (np.zeros((2, 8, 8, 3), np.float32), "float32; uint8 is wanted"),
        (np.zeros((2, 9, 8, 3), np.uint8), r"\(2, 9, 8, 3\); \(8, 8, 3\) or \(N, 8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "of shape"),
        ([], "empty"),
        (Image.new("I;16", (8, 8)), "more than 8 bits"),
    ],
)
def test_images_that_it_was_not_trained_on(images, says, trained):
    with pytest.raises(BrsweepError, match=says):
        brsweep.load(trained("synthetic"), device="cpu").predict(images)


# --- what can't be loaded --------------------------------------------------------------------------------------------


@pytest.fixture
def copy(trained, tmp_path):
    folder = small_runs.folder(trained("synthetic"))
    shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / folder.name


def rewritten(folder: Path, **changes) -> None:
    """The result with changes, sealed again; None leaves a field out."""
    result = {k: v for k, v in (json.loads((folder / "result.json").read_text()) | changes).items() if v is not None}
    RunFolder(folder).write_result({k: v for k, v in result.items() if k != "digest"})


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: (f / "result.json").unlink(), "not finished yet"),
        (lambda f: [(f / "result.json").unlink(), (f / "config.yaml").unlink()], "no run's folder"),
        (lambda f: (f / "checkpoints/best.pt").unlink(), "best.pt: no such checkpoint"),
        (lambda f: shutil.copy(f / "result.json", f / "checkpoints/best.pt"), "best.pt: damaged"),
        (lambda f: (f / "result.json").write_text("{}"), "damaged"),
        (lambda f: rewritten(f, code="0123"), "other training code or versions .*stale=keep"),
        (lambda f: rewritten(f, images=None), "did not record the images' size, mean, spread and classes"),
        (lambda f: rewritten(f, images={"size": [8, 8]}), "not one that this brsweep knows"),
        (lambda f: rewritten(f, config={"quant": {}}), "other training code or versions"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
)
def test_what_is_missing_is_said_in_one_line(damage, says, copy):
    damage(copy)
    with pytest.raises(BrsweepError, match=says) as caught:
        brsweep.load(copy, device="cpu")
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_a_run_of_other_code_is_taken_where_that_is_asked(copy):
    rewritten(copy, code="0123")
    assert brsweep.load(copy, device="cpu", stale="keep").classes
    rewritten(copy, config={"quant": {}})
    with pytest.raises(BrsweepError, match="configuration is not one that this brsweep knows"):
        brsweep.load(copy, device="cpu", stale="keep")


@pytest.mark.parametrize("which", ["best", "last"])
def test_weights_that_the_run_did_not_leave_are_refused(copy, which):
    """A whole checkpoint of the same network, which would score otherwise than the result says."""
    path = copy / f"checkpoints/{which}.pt"
    content = load_file(path)
    name = next(name for name, value in content["model"].items() if value.dim() == 4)
    content["model"][name] = content["model"][name] + 1
    save_file(path, content)
    with pytest.raises(BrsweepError, match=f"{which}.pt: damaged, it is not what the run left there"):
        brsweep.load(copy, which, "cpu")


def test_weights_of_another_network_are_refused(copy, trained):
    shutil.copy(small_runs.folder(trained("digits")) / "checkpoints/best.pt", copy / "checkpoints/best.pt")
    rewritten(copy)  # as if the run had left them
    with pytest.raises(BrsweepError, match="the weights don't fit the network"):
        brsweep.load(copy, device="cpu")


def test_a_network_from_elsewhere_is_not_run_without_consent(copy, monkeypatch):
    monkeypatch.setattr(targets, "_consented", ())
    config = json.loads((copy / "result.json").read_text())["config"]
    rewritten(copy, config=config | {"model": {"_target_": "subprocess.Popen", "args": "false"}, "allow_targets": []})
    with pytest.raises(BrsweepError, match="outside the allowed packages"):
        brsweep.load(copy, device="cpu", stale="keep")


def test_what_was_not_re_estimated_is_said(copy):
    with pytest.raises(BrsweepError, match="holds no re-estimated batch norm"):
        brsweep.load(copy, device="cpu", reestimated=True)
    with pytest.raises(BrsweepError, match="choose of best, last"):
        brsweep.load(copy, "first", "cpu")
    with pytest.raises(BrsweepError, match="no run's result"):
        brsweep.load({"name": "x"})


def test_the_package_itself_stays_cheap():
    code = "import sys, brsweep; assert 'torch' not in sys.modules; brsweep.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
