"""What a run's stages are made of: data on its device; networks, optimizers and regularizers by their targets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from brsweep import kernels, targets
from brsweep.data.tables import Tables, build_tables
from brsweep.errors import BrsweepError
from brsweep.models.build import build_model
from brsweep.quant.calibration import calibrate
from brsweep.quant.convert import Conversion, clip_relus, quantize_model
from brsweep.quant.sites import Site
from brsweep.stages.device import find_device, layer_work, set_threads, set_workspace, settle
from brsweep.training.checkpoint import load_pretrained
from brsweep.training.freezing import WeightFreezing
from brsweep.training.measure import Probe
from brsweep.training.optim import build_optimizer
from brsweep.training.schedule import seed_of
from brsweep.training.step import Learner
from brsweep.training.transitions import TransitionRate

TABLE_OPTIONS = ("val_fraction", "split_seed", "crop_padding", "flip")
PROBE_IMAGES = 256


@dataclass(frozen=True)
class Networks:
    """The networks that a configuration names, for images of one shape.

    classes, channels: counts. image_size: (height, width) in pixels.
    """

    config: Mapping[str, Any]
    classes: int
    channels: int
    image_size: tuple[int, int]
    device: torch.device

    def float_model(
        self, state: Mapping[str, Tensor] | None = None, say: Callable[[str], None] = lambda line: None
    ) -> nn.Module:
        """The float network, its ReLUs clipped as the quantized one's will be; weights by the seed, or `state`, or from
        a pretrained file, of which `say` tells what was taken."""
        model = clip_relus(self.untrained(), self.config["quant"]["clip_value"])
        if state is not None:
            model.load_state_dict({name: state[name] for name in model.state_dict()})
        elif self.config["pretrained"]:
            say(load_pretrained(self.config["pretrained"], model, self.config["pretrained_replace_head"]))
        return self.placed(model)

    def untrained(self) -> nn.Module:
        """As the model's factory makes it, on the CPU, its weights by the seed."""
        node = self.config["model"]
        factory = targets.locate("model", node[targets.TARGET])
        arguments = {key: value for key, value in node.items() if key != targets.TARGET}
        seed = seed_of(self.config["seed"], "weights")
        size = {"image_size": self.image_size}
        return build_model(factory, self.classes, self.channels, seed, **size, **arguments)

    def quantized_model(
        self, bits: tuple[int, int] | None = None, state: Mapping[str, Tensor] | None = None
    ) -> tuple[nn.Module, Conversion]:
        """The quantized network with a float network's weights, or the latent ones of a quantized network: its
        activations have no step size yet. bits: of weights and activations; None for the configuration's own."""
        return self._quantized(self.float_model(state), bits)

    def conversion(self) -> Conversion:
        """What quantizing the network does, whatever its weights: told on the CPU, of untrained ones."""
        return self._quantized(clip_relus(self.untrained(), self.config["quant"]["clip_value"]), None)[1]

    def _quantized(self, model: nn.Module, bits: tuple[int, int] | None) -> tuple[nn.Module, Conversion]:
        quant = dict(self.config["quant"])
        quant["weight_bits"], quant["act_bits"] = bits or (quant["weight_bits"], quant["act_bits"])
        node = quant.pop("quantizer")
        arguments = {key: value for key, value in node.items() if key != targets.TARGET}
        quantizer = partial(targets.locate("quant.quantizer", node[targets.TARGET]), **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the conversion's warnings are printed by the run
            return quantize_model(model, quantizer=quantizer, **quant)

    def placed(self, model: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.config["channels_last"] else torch.contiguous_format
        return model.to(self.device, memory_format=layout)


@dataclass(frozen=True)
class Setup:
    """The configuration, its data and its device."""

    config: Mapping[str, Any]
    tables: Tables
    device: torch.device

    @classmethod
    def of(cls, config: Mapping[str, Any], source: Any) -> Setup:
        """Prepare this process (memory, threads, determinism, kernels) and load the data."""
        device = find_device(config["device"])
        set_workspace(device, config["deterministic"])
        kernels.use(config["kernels"], device.type)  # before the rest: it may refuse, and the process is then as it was
        settle(device, config["deterministic"])
        if config["compile"]:
            torch.compiler.reset()  # what earlier runs of this process compiled counts against a limit
        options = {key: config["data"][key] for key in TABLE_OPTIONS}
        tables = build_tables(source, device=device, channels_last=config["channels_last"], **options)
        setup = cls(config, tables, device)
        setup._set_threads()
        return setup

    def _set_threads(self) -> None:
        asked, work = self.config["threads"], math.inf
        if not asked and self.device.type == "cpu":
            shape = (self.tables.channels, *self.tables.image_size)
            work = layer_work(self.networks.placed(self.networks.untrained()), shape, self.config["data"]["batch_size"])
        set_threads(asked, work, self.device)

    @cached_property
    def networks(self) -> Networks:
        tables = self.tables
        return Networks(self.config, len(tables.classes), tables.channels, tables.image_size, self.device)

    @cached_property
    def conversion(self) -> Conversion:
        """What quantizing this network does."""
        return self.networks.conversion()

    def calibrate(self, model: nn.Module) -> None:
        """Set the activations' step sizes from the first training batches of an order of their own."""
        seed = seed_of(self.config["seed"], "calibrate")
        batches = self.tables.train.augmented(self.config["data"]["batch_size"], seed)
        wanted = self.config["calibration_batches"]
        calibrate(model, [images for _, (images, _) in zip(range(wanted), batches, strict=False)])

    def optimizer(self, model: nn.Module, which: str) -> torch.optim.Optimizer:
        """which: "float_optimizer" or "qat_optimizer"."""
        node = self.config[which]
        factory = targets.locate(which, node[targets.TARGET])
        options = {key: value for key, value in node.items() if key != targets.TARGET}
        try:
            return build_optimizer(factory, model, options)
        except (TypeError, ValueError) as error:
            raise BrsweepError(f"{which}: {node[targets.TARGET]}: {error}") from None

    def teacher(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The float network of that state, for soft labels."""
        return self.networks.float_model(state).eval().requires_grad_(False)

    def freezing(self, model: nn.Module, sites: Sequence[Site]) -> WeightFreezing:
        return WeightFreezing(model, sites, **self.config["freeze_weights"])

    def transitions(
        self, model: nn.Module, sites: Sequence[Site], optimizer: torch.optim.Optimizer
    ) -> TransitionRate:
        return TransitionRate(model, sites, optimizer, **self.config["transition_rate"])

    def regularizer(self) -> Any:
        return targets.build("reg", self.config["reg"])

    def learner(self, model: nn.Module, which: str, **parts: Any) -> Learner:
        return Learner(
            model,
            self.optimizer(model, which),
            precision=self.config["precision"],
            gradient_clip=self.config["gradient_clip"],
            compile=self.config["compile"],
            graphs=self.config["cuda_graphs"] and self.device.type == "cuda",
            distill_weight=self.config["distill"]["weight"],
            temperature=self.config["distill"]["temperature"],
            **parts,
        )

    def probe(self, model: nn.Module, conversion: Conversion) -> Probe:
        images, _ = next(iter(self.tables.train.plain(PROBE_IMAGES, limit=PROBE_IMAGES)))
        return Probe(model, conversion.sites, images)

