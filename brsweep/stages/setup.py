"""What a run's stages are made of: data on its device; networks, optimizers and regularizers by their targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from brsweep import kernels, targets
from brsweep.data.tables import Tables, build_tables
from brsweep.errors import BrsweepError
from brsweep.models.build import build_model
from brsweep.quant.calibration import calibrate
from brsweep.quant.convert import Conversion, clip_relus, quantize_model
from brsweep.training.allocator import keep_freed_memory
from brsweep.training.checkpoint import load_pretrained
from brsweep.training.measure import Probe
from brsweep.training.optim import build_optimizer
from brsweep.training.schedule import seed_of
from brsweep.training.step import Learner

TABLE_OPTIONS = ("val_fraction", "split_seed", "crop_padding", "flip")
PROBE_IMAGES = 256


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
        kernels.use(config["kernels"], device.type)  # first: it may refuse, and the process is then as it was
        keep_freed_memory()
        if config["threads"]:
            torch.set_num_threads(config["threads"])
        torch.use_deterministic_algorithms(config["deterministic"])
        torch.backends.cudnn.benchmark = not config["deterministic"]
        if config["compile"]:
            torch.compiler.reset()  # what earlier runs of this process compiled counts against a limit
        options = {key: config["data"][key] for key in TABLE_OPTIONS}
        tables = build_tables(source, device=device, channels_last=config["channels_last"], **options)
        return cls(config, tables, device)

    def float_model(
        self, state: Mapping[str, Tensor] | None = None, say: Callable[[str], None] = lambda line: None
    ) -> nn.Module:
        """The float network, its ReLUs clipped as the quantized one's will be; weights by the seed, or `state`, or from
        a pretrained file, of which `say` tells what was taken."""
        node = self.config["model"]
        factory = targets.locate("model", node[targets.TARGET])
        arguments = {key: value for key, value in node.items() if key != targets.TARGET}
        seed = seed_of(self.config["seed"], "weights")
        size = {"image_size": self.tables.image_size}
        model = build_model(factory, len(self.tables.classes), self.tables.channels, seed, **size, **arguments)
        model = clip_relus(model, self.config["quant"]["clip_value"])
        if state is not None:
            model.load_state_dict(state)
        elif self.config["pretrained"]:
            say(load_pretrained(self.config["pretrained"], model, self.config["pretrained_replace_head"]))
        return self._placed(model)

    def quantized_model(self, float_state: Mapping[str, Tensor] | None = None) -> tuple[nn.Module, Conversion]:
        """The quantized network with a float network's weights; its activations have no step size yet."""
        quant = dict(self.config["quant"])
        node = quant.pop("quantizer")
        arguments = {key: value for key, value in node.items() if key != targets.TARGET}
        quantizer = partial(targets.locate("quant.quantizer", node[targets.TARGET]), **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the conversion's warnings are printed by the run
            return quantize_model(self.float_model(float_state), quantizer=quantizer, **quant)

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

    def regularizer(self) -> Any:
        return targets.build("reg", self.config["reg"])

    def learner(self, model: nn.Module, which: str, **parts: Any) -> Learner:
        return Learner(
            model,
            self.optimizer(model, which),
            precision=self.config["precision"],
            gradient_clip=self.config["gradient_clip"],
            compile=self.config["compile"],
            **parts,
        )

    def probe(self, model: nn.Module, conversion: Conversion) -> Probe:
        images, _ = next(iter(self.tables.train.plain(PROBE_IMAGES, limit=PROBE_IMAGES)))
        return Probe(model, conversion.sites, images)

    def _placed(self, model: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.config["channels_last"] else torch.contiguous_format
        return model.to(self.device, memory_format=layout)


def find_device(name: str) -> torch.device:
    """The device of that name. Raises `BrsweepError` where this machine has none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BrsweepError(f"device={name}: torch finds no CUDA device on this machine; take device=cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise BrsweepError(f"device={name}: choose auto, cpu or cuda") from None
