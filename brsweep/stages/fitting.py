"""Whether a run's parts fit each other and the data: each is made once, and the network takes two images.

A network that the images don't fit, that returns more than logits, or whose batch norm has one value per channel would
otherwise stop a run in its first step, and a pattern of `quant.overrides` that matches no layer after its float stage.

The images have no values (torch's device `meta`): every layer says which shape it gives and computes nothing, so the
largest network is through at once, in training and in evaluation. A network that asks for values gets them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from brsweep import kernels, targets
from brsweep.data.split import split_indices
from brsweep.errors import BrsweepError
from brsweep.models.build import build_model
from brsweep.quant.calibration import calibrate
from brsweep.quant.convert import Conversion, clip_relus, quantize_model
from brsweep.quant.sites import Site
from brsweep.stages.determinism import Watch
from brsweep.stages.signature import digest
from brsweep.stages.source import data_source, source_node
from brsweep.stages.trial import is_own, try_quantizers, try_regularizer
from brsweep.training.checkpoint import load_pretrained
from brsweep.training.freezing import low_weights
from brsweep.training.optim import build_optimizer
from brsweep.training.schedule import seed_of
from brsweep.training.transitions import check_transitions


def check_together(
    config: Mapping[str, Any], source: Any, strict: bool = False, made: dict[str, tuple[str, Any]] | None = None
) -> None:
    """Raise `BrsweepError` unless the parts can be made and fit the data; see `check_parts`.

    strict: the run is to be deterministic on CUDA: refuse what has no such form there.
    made: the networks of the check before, for one that differs in other parts; this one's are left in it.
    """
    made = {} if made is None else made
    shape, classes, count = _look_at_data(config, source)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the run says what there is to say
        batch = min(2, config["data"]["batch_size"], count)
        settings = [config[key] for key in ("model", "pretrained", "pretrained_replace_head")]
        key = digest([settings, config["quant"]["clip_value"], shape, classes, batch])
        model = _once(made, "float", key, lambda: _fitting_model(config, shape, classes, batch))
        for which in ("float_optimizer", "qat_optimizer"):
            _check_optimizer(config, which, model)
        key = digest([key, config["quant"]])
        quantized, done = _once(made, "quantized", key, lambda: _quantized(config, model))
        regularizer = targets.build("reg", config["reg"])
        regularizer.check(done.sites)
        if is_own(config["quant"]["quantizer"]):
            _made("quant.quantizer", config["quant"]["quantizer"], lambda: try_quantizers(done.sites))
        unlevelled = any(site.quantizer.alpha is None for site in done.sites)
        if any(regularizer.strength.values()) and (unlevelled or is_own(config["reg"])):
            images = torch.rand(batch, *shape)
            _made("reg", config["reg"], lambda: try_regularizer(regularizer, quantized, done.sites, images))
        if config["freeze_weights"]["threshold"]:
            low_weights(done.sites, "freeze_weights.threshold")
        if config["transition_rate"]["factor"]:
            factor = config["transition_rate"]["factor"]
            check_transitions(quantized, done.sites, config["qat_optimizer"]["lr"], factor)
        if strict:
            _check_determinism(f"model: {config['model'][targets.TARGET]}", model, shape)
            with kernels.using("reference"):  # on the CPU, where this is tried
                _check_determinism("quant, reg", quantized, shape, regularizer, done.sites)


def _once(made: dict[str, tuple[str, Any]], kind: str, key: str, make: Callable[[], Any]) -> Any:
    """What was made of that kind for an equal `key`; else what `make` returns, in the place of the one before."""
    if made.get(kind, ("", None))[0] != key:
        made.pop(kind, None)  # first, so that memory need not hold both
        made[kind] = key, make()
    return made[kind][1]


def _look_at_data(config: Mapping[str, Any], source: Any) -> tuple[tuple[int, int, int], int, int]:
    """Shape of an image, number of classes, and of training images. Raises `BrsweepError` where options don't fit."""
    options = config["data"]
    source = data_source(config) if source is None else source
    images = _made("data", source_node(config), lambda: source.load())
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


def _fitting_model(config: Mapping[str, Any], shape: tuple[int, int, int], classes: int, batch: int) -> nn.Module:
    model = _float_model(config, shape, classes)
    _check_forward(f"model: {config['model'][targets.TARGET]}", model, (batch, *shape), classes)
    return model.train()


def _quantized(config: Mapping[str, Any], model: nn.Module) -> tuple[nn.Module, Conversion]:
    quant = dict(config["quant"])
    node = quant.pop("quantizer")
    own = {key: value for key, value in node.items() if key != targets.TARGET}
    quantizer = partial(targets.locate("quant.quantizer", node[targets.TARGET]), **own)
    return _made("quant", node, lambda: quantize_model(model, quantizer=quantizer, **quant))


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


def _check_forward(where: str, model: nn.Module, shape: tuple[int, int, int, int], classes: int) -> None:
    """A batch of that shape through the float network, as steps of training and of evaluation take it."""
    batch = shape[0]
    size = f"images of {shape[2]}x{shape[3]}"
    for training in (True, False):
        try:
            logits = _output(model.train(training), shape)
        except BrsweepError:
            raise
        except Exception as error:
            cure = "choose another model, or images of the size that it takes"
            cure = "take batches of two or more" if "more than 1 value per channel" in str(error) else cure
            line = f"{where}: does not take {batch} {size} ({targets.in_a_line(error)}); {cure}"
            raise BrsweepError(line) from None
        if not isinstance(logits, Tensor):
            raise BrsweepError(
                f"{where}: returns {type(logits).__name__} in {'training' if training else 'evaluation'}, and one "
                f"tensor of logits is wanted; switch auxiliary outputs off (aux_logits=false)"
            )
        if logits.shape != (batch, classes):
            raise BrsweepError(
                f"{where}: returns {list(logits.shape)} for {batch} {size}; [{batch}, {classes}] is wanted, a logit "
                f"for each class"
            )


@torch.no_grad()
def _output(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """What the network returns for images of that shape, without values where it can do without."""
    state = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    try:
        return functional_call(model, state, (torch.empty(shape, device="meta"),))
    except Exception:  # it looks at values, or holds tensors that are no part of its state: with values it may well do
        return model(torch.rand(shape, generator=torch.Generator().manual_seed(0)))


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
