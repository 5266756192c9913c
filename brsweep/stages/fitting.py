"""Whether a run's parts fit each other and the data: each is made once, and the network takes two images.

A network that the images don't fit, that returns more than logits, or whose batch norm has one value per channel would
otherwise stop a run in its first step, and a pattern of `quant.overrides` that matches no layer after its float stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from brsweep import kernels, targets
from brsweep.data.split import split_indices
from brsweep.errors import BrsweepError
from brsweep.models.build import build_model
from brsweep.quant.calibration import calibrate
from brsweep.quant.convert import clip_relus, quantize_model
from brsweep.quant.sites import Site
from brsweep.stages.determinism import Watch
from brsweep.stages.setup import TABLE_OPTIONS
from brsweep.training.checkpoint import load_pretrained
from brsweep.training.freezing import check_freezable
from brsweep.training.optim import build_optimizer
from brsweep.training.schedule import seed_of

DATA_OPTIONS = (*TABLE_OPTIONS, "batch_size")


def check_together(config: Mapping[str, Any], source: Any, strict: bool = False) -> None:
    """Raise `BrsweepError` unless the parts can be made and fit the data; see `check_parts`.

    strict: the run is to be deterministic on CUDA: refuse what has no such form there.
    """
    shape, classes, count = _look_at_data(config, source)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the run says what there is to say
        model = _float_model(config, shape, classes)
        _check_forward(config, model, shape, classes, count)
        for which in ("float_optimizer", "qat_optimizer"):
            _check_optimizer(config, which, model)
        quant = dict(config["quant"])
        node = quant.pop("quantizer")
        own = {key: value for key, value in node.items() if key != targets.TARGET}
        quantizer = partial(targets.locate("quant.quantizer", node[targets.TARGET]), **own)
        if strict:
            _check_determinism(f"model: {config['model'][targets.TARGET]}", model, shape)
        quantized, done = _made("quant", node, lambda: quantize_model(model, quantizer=quantizer, **quant))
        regularizer = targets.build("reg", config["reg"])
        regularizer.check(done.sites)
        if config["freeze_weights"]["threshold"]:
            check_freezable(done.sites)
        if strict:
            kernels.use("reference")  # on the CPU, where this is tried
            try:
                _check_determinism("quant, reg", quantized, shape, regularizer, done.sites)
            finally:
                kernels.use(config["kernels"])


def _look_at_data(config: Mapping[str, Any], source: Any) -> tuple[tuple[int, int, int], int, int]:
    """Shape of an image, number of classes, and of training images. Raises `BrsweepError` where options don't fit."""
    node = {key: value for key, value in config["data"].items() if key not in DATA_OPTIONS}
    options = config["data"]
    source = targets.build("data", node) if source is None else source
    images = _made("data", node, lambda: source.load())
    height, width, channels = images.train_images.shape[1:]
    kept, held_out = split_indices(images.train_labels, options["val_fraction"], options["split_seed"])
    if options["val_fraction"] and not len(held_out):
        raise BrsweepError(
            f"data.val_fraction={options['val_fraction']}: of {len(kept)} images that is none for validation; take "
            f"more, or 0"
        )
    if options["crop_padding"] >= min(height, width):
        raise BrsweepError(
            f"data.crop_padding={options['crop_padding']}: images are {height}x{width}, and a crop could miss them "
            f"wholly; take less"
        )
    if options["batch_size"] > len(kept):
        raise BrsweepError(
            f"data.batch_size={options['batch_size']}: there are {len(kept)} training images; take that many at most"
        )
    return (channels, height, width), len(images.classes), len(kept)


def _float_model(config: Mapping[str, Any], shape: tuple[int, int, int], classes: int) -> nn.Module:
    node = config["model"]
    factory = targets.locate("model", node[targets.TARGET])
    own = {key: value for key, value in node.items() if key != targets.TARGET}
    seed = seed_of(config["seed"], "weights")
    build = partial(build_model, factory, classes, shape[0], seed, image_size=shape[1:], **own)
    model = _made("model", node, build)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            raise BrsweepError(
                f"model: {node[targets.TARGET]}: {name} is {list(parameter.shape)} of images of {shape[1]}x{shape[2]}: "
                "nothing to train; choose another model, or other images"
            )
    model = _made("model", node, lambda: clip_relus(model, config["quant"]["clip_value"]))
    if config["pretrained"]:
        load_pretrained(config["pretrained"], model, config["pretrained_replace_head"])
    return model


def _check_optimizer(config: Mapping[str, Any], which: str, model: nn.Module) -> None:
    node = config[which]
    factory = targets.locate(which, node[targets.TARGET])
    options = {key: value for key, value in node.items() if key != targets.TARGET}
    _made(which, node, lambda: build_optimizer(factory, model, options))


def _check_forward(
    config: Mapping[str, Any], model: nn.Module, shape: tuple[int, int, int], classes: int, count: int
) -> None:
    """Two images, or the one that a batch has, through the float network as a training step takes them."""
    batch = min(2, config["data"]["batch_size"], count)
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    size = f"images of {shape[1]}x{shape[2]}"
    name = f"model: {config['model'][targets.TARGET]}"
    try:
        with torch.no_grad():
            logits = model.train()(images)
    except BrsweepError:
        raise
    except Exception as error:
        cure = "take batches of two or more" if "more than 1 value per channel" in str(error) else "choose another"
        raise BrsweepError(f"{name}: does not take {batch} {size} ({targets.in_a_line(error)}); {cure}") from None
    if not isinstance(logits, Tensor):
        raise BrsweepError(
            f"{name}: returns {type(logits).__name__} in training, and one tensor of logits is wanted; "
            f"switch auxiliary outputs off (aux_logits=false)"
        )
    if logits.shape != (batch, classes):
        raise BrsweepError(
            f"{name}: returns {list(logits.shape)} for {batch} {size}; [{batch}, {classes}] is wanted, a logit for "
            f"each class"
        )


def _check_determinism(
    where: str, model: nn.Module, shape: tuple[int, int, int], regularizer: Any = None, sites: Sequence[Site] = ()
) -> None:
    """Raise `BrsweepError` where a training step calls an operator that CUDA has no deterministic form of."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    if sites:
        calibrate(model, [images])
    with Watch().inside(model.train()) as watch:
        if regularizer is None:
            model(images)
        else:
            with regularizer.collect(sites) as seen:
                model(images)
            regularizer.penalties(seen)
    if watch.raising:
        raise BrsweepError(
            f"{where}: CUDA has no deterministic form of {watch.words()}; set deterministic=false, and equal runs then "
            f"differ in their last bits, or take another layer"
        )


def _made(where: str, node: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` returns. Raises `BrsweepError` for whatever it raises: the code of a part may raise anything."""
    try:
        return make()
    except BrsweepError:
        raise
    except Exception as error:
        raise BrsweepError(f"{where}: {node[targets.TARGET]}: {targets.in_a_line(error)}") from None
