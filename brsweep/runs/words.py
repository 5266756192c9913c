"""A run in words: its folder's readable name, its parts, its tags, and the lines that open its console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from brsweep.quant.grid import FLOAT_BITS
from brsweep.stages.plan import BIN_REGULARIZATION, WAYS_TO_TRAIN, Stage, rungs, ways_to_train

if TYPE_CHECKING:
    from brsweep.runs.status import RunStatus

LSQ_QUANTIZER = "brsweep.quant.lsq.LSQQuantizer"


def readable_name(config: Mapping[str, Any]) -> str:
    """model-data-bits-schedule-lambdas-seed: `resnet20-digits-w2a2-s2-lw1-la10-s42`; another quantizer than LSQ, and
    another regularizer in force than BR, behind the bits: `w2a2-ewgs`, `w2a2-kure`. The hash behind it tells apart what
    the words don't."""
    reg = config["reg"]
    lambdas = f"lw{reg['lambda_weight']:g}-la{reg['lambda_act']:g}"
    net, data, seed = _last(config["model"]), data_name(config), f"s{config['seed']}"
    return "-".join((net, data, bits(config), *_methods(config), schedule(config), lambdas, seed))


def _methods(config: Mapping[str, Any]) -> list[str]:
    """The quantizer where it is not LSQ, and the regularizer in force where it is not BR."""
    found = [] if quantizer(config) == "lsq" else [quantizer(config).removesuffix("quantizer") or "quantizer"]
    if is_regularized(config) and config["reg"]["_target_"] != BIN_REGULARIZATION:
        found.append(regularizer(config))
    return found


def data_name(config: Mapping[str, Any]) -> str:
    """What folders and tables call the data: `digits`, or the name that was given; of a part of it, which one:
    `digits-50perclass`, `digits-quick`."""
    data = config["data"]
    limit = f"{data['limit']}perclass" if data.get("limit") else ""
    name = str(data.get("name") or _last(data))
    return "-".join(filter(None, [name, limit, "quick" if config.get("quick") else ""]))


def bits(config: Mapping[str, Any]) -> str:
    """`w2a2`; float is 32."""
    return f"w{config['quant']['weight_bits']}a{config['quant']['act_bits']}"


def bits_label(config: Mapping[str, Any], float_inputs: int | None) -> str:
    """`W2A2` where every input of a quantized layer is quantized; else how many are not.

    >>> bits_label({"quant": {"weight_bits": 2, "act_bits": 2}}, 17)
    'W2A2, 17 inputs float'
    """
    label, activations = bits(config).upper(), config["quant"]["act_bits"] != FLOAT_BITS
    if not activations or float_inputs == 0:
        return label
    told = "inputs unknown" if float_inputs is None else f"{float_inputs} input{'s' * (float_inputs > 1)} float"
    return f"{label}, {told}"


def schedule(config: Mapping[str, Any]) -> str:
    """joint: BR from the first QAT epoch; s2: warm-up, then BR; s1: the same with frozen step sizes. And what comes to
    it: `s2-ladder`, `s2-distill`, `s2-freezing`, `s2-transitions`."""
    schedule = config["schedule"]
    kind = "joint" if not schedule["warmup_epochs"] else "s1" if schedule["freeze_alpha"] else "s2"
    return "-".join([kind, *ways(config)])


def ways(config: Mapping[str, Any]) -> list[str]:
    """The other ways to train that are on: `ladder`, `distill`, `freezing`, `transitions`."""
    return [*(["ladder"] if rungs(config) else []), *(WAYS_TO_TRAIN[group].word for group in ways_to_train(config))]


def regularizer(config: Mapping[str, Any]) -> str | None:
    """The class of the regularizer in force, `binregularization`; None where both lambdas are 0, whatever its class."""
    return _last(config["reg"]) if is_regularized(config) else None


def is_regularized(config: Mapping[str, Any]) -> bool:
    return bool(config["reg"]["lambda_weight"] or config["reg"]["lambda_act"])


def quantizer(config: Mapping[str, Any]) -> str:
    """`lsq`, or the class of another quantizer."""
    node = config["quant"]["quantizer"]
    return "lsq" if node["_target_"] == LSQ_QUANTIZER else _last(node)


def tags(config: Mapping[str, Any], float_inputs: int | None) -> tuple[str, ...]:
    """Bits, method and schedule; the method is the regularizer, or the quantizer where nothing regularizes.

    float_inputs: as in `bits_label`.
    """
    label = bits_label(config, float_inputs).replace(bits(config).upper(), bits(config))
    quick = ("quick",) if config.get("quick") else ()
    return (label, regularizer(config) or quantizer(config), schedule(config), *quick)


def final_values(result: Mapping[str, Any]) -> dict[str, float | None]:
    """What a finished run is judged by, for a tracker's summary."""
    shown = ("val_accuracy", "best_epoch", "test_accuracy", "test_accuracy_last", "float_test_accuracy")
    gap = gap_to_float(result["test_accuracy"], result["float_test_accuracy"])
    return {key: result[key] for key in shown} | {"gap_to_float": gap}


def gap_to_float(test: float | None, floating: float | None) -> float | None:
    """Test accuracy less that of the float network, in [-1, 1]: negative where quantization costs accuracy."""
    return None if test is None or floating is None else test - floating


def alpha_control(config: Mapping[str, Any]) -> str:
    """What moves the step sizes in the last stage."""
    if "transition_rate" in ways_to_train(config) and not config["schedule"]["freeze_alpha"]:
        return f"of weights held; of activations {_alpha_trained(config)}"
    return _alpha_trained(config)


def _alpha_trained(config: Mapping[str, Any]) -> str:
    reg, name = config["reg"], regularizer(config)
    if config["schedule"]["freeze_alpha"]:
        return "frozen when the warm-up ends"
    if name is None:
        return "trained by the task alone"
    if reg["_target_"] != BIN_REGULARIZATION:
        return f"trained by the task, and by {name} as far as its gradient reaches it"
    if not reg["backprop_to_alpha"]:
        return "trained by the task alone; BR's gradient is kept from it"
    return f"trained by the task and by BR (gradient {reg['alpha_grad_scale']}): levels move while BR clusters to them"


def progress(status: RunStatus) -> str:
    """`3/20`, or `3/?` where nothing tells how many epochs there are."""
    return f"{status.done}/{'?' if status.total is None else status.total}"


def duration(seconds: float | None) -> str:
    """`1 h 05 min`, `3 min`, `20 s`; nothing for None."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    r"""`text` with every character that is no visible one as Python writes it: names and causes come from elsewhere,
    and a terminal acts on some of them.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def settings_lines(config: Mapping[str, Any], setup: Any, stages: Sequence[Stage]) -> list[str]:
    """What a person checks before letting a training run."""
    from brsweep import kernels

    tables, reg = setup.tables, config["reg"]
    val = 0 if tables.val is None else len(tables.val)
    ends = config["quant"]["first_last_bits"]
    plan = ", ".join(f"{stage.name} {stage.epochs}" for stage in stages)
    where = f"{setup.device}, {threads(config, setup)}, {config['precision']}"
    unused = config["schedule"]["ladder"] and not rungs(config)
    return [
        *(["quick=true: a first try, whose results stand apart from all others"] if config.get("quick") else []),
        *([f"schedule.ladder has no rung above {bits(config)}, so there is none"] if unused else []),
        *_idle_options(config),
        f"data {data_name(config)}: {len(tables.train)} training, {val} validation, {len(tables.test)} test images",
        f"net {_last(config['model'])}, {bits(config)}{'' if ends in (None, FLOAT_BITS) else f', ends {ends} bits'}; "
        f"{where}; kernels {kernels.chosen(setup.device.type)}",
        f"epochs {plan}; lambda_weight={reg['lambda_weight']:g} lambda_act={reg['lambda_act']:g}; "
        f"alpha {alpha_control(config)}",
    ]


def _idle_options(config: Mapping[str, Any]) -> list[str]:
    """A line for each option that was set of a way to train that is off."""
    off = {group: way for group, way in WAYS_TO_TRAIN.items() if group not in ways_to_train(config)}
    return [
        f"{group}.{key}={config[group][key]:g} has no effect: {group}.{way.switch} is 0"
        for group, way in off.items()
        for key, usual in way.options.items()
        if config[group][key] != usual
    ]


def threads(config: Mapping[str, Any], setup: Any) -> str:
    """How many of the CPU's threads the process takes, and who chose them."""
    import torch

    count = torch.get_num_threads()
    chosen = not config["threads"] and setup.device.type == "cpu"
    return f"{count} thread{'' if count == 1 else 's'}{' (by the work of a step)' if chosen else ''}"


def _last(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2].lower()
