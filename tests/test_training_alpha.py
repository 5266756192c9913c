"""Who moves alpha: freeze_alpha x backprop_to_alpha, by gradient and over real steps.

freeze  backprop   CE -> alpha   BR -> alpha
no      no         yes           no
yes     no         no            no
no      yes        yes           yes
yes     yes        no            no           freezing wins, and says so
"""

from __future__ import annotations

import pytest
import small_runs
import torch
import torch.nn.functional as F
from references import SmallNet, code_of

from brsweep import kernels
from brsweep.quant import calibrate, quantize_model
from brsweep.regularizers import ActivationHookManager, BinRegularization, BinRegularizer
from brsweep.stages.plan import identity, plan
from brsweep.training.loop import Totals
from brsweep.training.optim import build_optimizer, freeze_alphas
from brsweep.training.step import Learner, train_step

OPTIONS = {
    "lr": 0.05, "weight_decay": 1e-3, "alpha_lr": 0.05, "alpha_weight_decay": 1e-2, "norm_weight_decay": 0.0,
    "momentum": 0.9,
}  # fmt: skip
WARMUP, STEPS, LAMBDAS = 4, 6, {"weight": 2.0, "act": 0.5}


@pytest.fixture(autouse=True)
def plain_computing():
    """The reference kernel, whose alpha gradient has the same bits with and without sums; and one thread."""
    torch.set_num_threads(1)
    kernels.use("reference")


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(WARMUP + STEPS):
        yield torch.randn(8, 3, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator)


def quantized_net(per_channel=False):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2, per_channel=per_channel)
    calibrate(model, [images for images, _ in batches()][:2])
    return model, done.sites


def alphas(sites) -> dict[str, torch.Tensor]:
    return {site.name: site.quantizer.alpha.detach().clone() for site in sites}


def bits(path) -> list[dict[str, bytes]]:
    return [{name: value.numpy().tobytes() for name, value in step.items()} for step in path]


def trained(freeze: bool, backprop: bool, factory=torch.optim.SGD, per_channel=False, scale="raw"):
    """The step sizes after the warm-up and after each step of the last stage, trained as the stages do; the weights."""
    model, sites = quantized_net(per_channel)
    options = OPTIONS if factory is torch.optim.SGD else {k: v for k, v in OPTIONS.items() if k != "momentum"}
    optimizer = build_optimizer(factory, model, options)
    regularizer = BinRegularization(
        LAMBDAS["weight"], LAMBDAS["act"], backprop_to_alpha=backprop, alpha_grad_scale=scale
    )
    totals, path = Totals(torch.device("cpu")), []
    for step, (images, labels) in enumerate(batches()):
        if step == WARMUP:
            path.append(alphas(sites))
            if freeze:
                freeze_alphas(model, optimizer)
        learner = Learner(model, optimizer, sites, regularizer if step >= WARMUP else None)
        train_step(learner, images, labels, LAMBDAS, totals, step)
        if step >= WARMUP:
            path.append(alphas(sites))
    return path, {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(backprop: bool | None, scale="raw", per_channel=False, kinds=("weight", "act")):
    """The gradient of every alpha in one step's loss: of CE alone (None), or with BR on `kinds`."""
    model, sites = quantized_net(per_channel)
    images, labels = next(batches())
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    strengths = [LAMBDAS[kind] if kind in kinds else 0.0 for kind in ("weight", "act")]
    regularizer = BinRegularization(*strengths, backprop_to_alpha=bool(backprop), alpha_grad_scale=scale)
    learner = Learner(model, optimizer, sites, None if backprop is None else regularizer)
    train_step(learner, images, labels, LAMBDAS, Totals(torch.device("cpu")), 0)
    return {site.name: site.quantizer.alpha.grad.clone() for site in sites}, model, sites


# --- by gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
def test_detached_br_of_weights_leaves_the_gradient_of_ce_bit_for_bit(per_channel):
    alone, _, sites = gradients(None, per_channel=per_channel)
    with_br, _, _ = gradients(False, per_channel=per_channel, kinds=("weight",))
    assert all(torch.equal(alone[name], with_br[name]) for name in alone)
    assert all(alone[site.name].abs().sum() > 0 for site in sites)  # CE reaches every one


def test_detached_br_of_activations_reaches_only_alphas_before_them():
    """What a site receives depends on the step sizes before it, so its penalty does; on its own one, and on those
    behind it, it does not."""
    alone, _, sites = gradients(None)
    with_br, _, _ = gradients(False, kinds=("act",))
    same = {name for name in alone if torch.equal(alone[name], with_br[name])}
    order = [site.name for site in sites]
    assert order == ["conv1", "relu1", "conv2", "relu2", "conv3", "relu3", "fc"]
    assert same == set(order[order.index("relu2") :])  # relu2 is the last low one


@pytest.mark.parametrize("scale", ["raw", "lsq"])
def test_br_adds_its_own_gradient_where_it_is_let_through(scale):
    """d/da sum_k S2_k/n_k = sum_k -2 k S1_k/n_k, from a loop over the values; times LSQ's g where asked."""
    detached, model, sites = gradients(False, scale)
    with_br, _, _ = gradients(True, scale)
    with ActivationHookManager(model) as hooks:
        model(next(batches())[0])
        values = {name: v.detach() for name, v in hooks.get_pre_quant_activations().items()}
    values |= {s.name: model.get_submodule(s.name).weight.detach() for s in sites if s.kind == "weight"}
    for site in sites:
        added = (with_br[site.name] - detached[site.name]).item()
        if not site.low:
            assert added == 0.0
            continue
        grid, alpha = site.grid, site.quantizer.alpha.item()
        bins = {k: [] for k in range(grid.qn, grid.qp + 1)}
        for v in values[site.name].double().flatten().tolist():
            k = code_of(v, alpha, grid.qn, grid.qp)
            bins[k].append(v - k * alpha)
        gradient = LAMBDAS[site.kind] * sum(-2 * k * sum(r) / len(r) for k, r in bins.items() if r)
        gradient *= 1.0 if scale == "raw" else site.quantizer.grad_scale(values[site.name])
        # a difference of two float32 gradients
        assert added == pytest.approx(gradient, rel=1e-4, abs=1e-6 * abs(with_br[site.name].item()) + 1e-9)


# --- over steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("per_channel", [False, True])
def test_frozen_means_every_bit(factory, per_channel):
    """With momentum from the warm-up and a decay on alphas, which would both move a parameter that has no gradient."""
    path, weights = trained(True, False, factory, per_channel)
    assert all(step == bits(path)[0] for step in bits(path))
    free, others = trained(False, False, factory, per_channel)
    assert bits(free)[0] == bits(path)[0]  # the same warm-up
    assert all(not torch.equal(free[-1][name], free[0][name]) for name in free[0])  # and all move when free
    assert not torch.equal(weights["conv2.weight"], others["conv2.weight"])


def by_hand() -> list[dict[str, torch.Tensor]]:
    """CE plus BR of whole captured tensors on detached step sizes: another way to the loss, and a plain loop."""
    model, sites = quantized_net()
    optimizer = build_optimizer(torch.optim.SGD, model, OPTIONS)
    path = []
    for step, (images, labels) in enumerate(batches()):
        with ActivationHookManager(model) as hooks:
            loss = F.cross_entropy(model(images), labels)
            captured = hooks.get_pre_quant_activations()
        if step == WARMUP:
            path.append(alphas(sites))
        for site in sites if step >= WARMUP else ():
            if site.low:
                weight = site.kind == "weight"
                values = model.get_submodule(site.name).weight if weight else captured[site.name]
                penalty = BinRegularizer(2, weight).compute_bin_loss(values, site.quantizer.alpha.detach())
                loss = loss + LAMBDAS[site.kind] * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= WARMUP:
            path.append(alphas(sites))
    return path


def test_free_and_detached_is_the_path_of_a_loss_on_detached_alphas():
    path, _ = trained(False, False)
    moving, _ = trained(False, True)
    for mine, other in zip(path, by_hand(), strict=True):
        for name in mine:
            # float32 sums in another order, over ten steps; the path with BR on alpha lies far outside
            torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-6)
    last = moving[-1]
    low = ("conv2", "conv3", "relu1", "relu2")
    assert all(abs(last[name] - path[-1][name]) > 1e-3 * abs(path[-1][name]) for name in low)


def test_the_scale_of_brs_gradient_matters_only_where_it_reaches_alpha():
    assert bits(trained(False, False, scale="lsq")[0]) == bits(trained(False, False)[0])
    assert bits(trained(False, True, scale="lsq")[0]) != bits(trained(False, True)[0])


def test_frozen_wins_over_backprop_bit_for_bit():
    (path, weights), (other_path, others) = trained(True, False), trained(True, True)
    assert bits(path) == bits(other_path) and bits([weights]) == bits([others])


# --- through a whole run ---------------------------------------------------------------------------------------------


def test_a_frozen_run_and_its_contradiction(tmp_path):
    """Frozen: the last stage's step sizes are those that the warm-up left. With backprop: the same run, one line."""
    frozen, both = ("schedule.freeze_alpha=true",), ("schedule.freeze_alpha=true", "reg.backprop_to_alpha=true")
    with_decay = ("qat_optimizer.alpha_weight_decay=0.01",)
    one = small_runs.train(*frozen, *with_decay, tmp_path=tmp_path / "one")
    two = small_runs.train(*both, *with_decay, tmp_path=tmp_path / "two")
    assert one["name"] == two["name"] and one["stages"] == two["stages"]
    assert small_runs.outcome(small_runs.folder(one)) == small_runs.outcome(small_runs.folder(two))

    state = torch.load(tmp_path / "one/store" / one["stages"]["warmup"] / "state.pt", weights_only=True)["model"]
    last = torch.load(small_runs.folder(one) / "checkpoints/last.pt", weights_only=True)["model"]
    names = [name for name in last if name.endswith("alpha")]
    assert len(names) == 7 and all(torch.equal(last[name], state[name]) for name in names)
    assert not torch.equal(last["conv1.weight"], state["conv1.weight"])

    told = [line for line in (small_runs.folder(two) / "console.log").read_text().splitlines() if "contradict" in line]
    assert len(told) == 1 and told[0].startswith("warning: ") and "freezing wins" in told[0]
    log = (small_runs.folder(one) / "console.log").read_text()
    assert "contradict" not in log and log.count("alpha frozen from here on: 7 step sizes keep every bit") == 1


def test_a_free_run_moves_them(tmp_path):
    free = small_runs.train("reg.backprop_to_alpha=true", tmp_path=tmp_path)
    state = torch.load(tmp_path / "store" / free["stages"]["warmup"] / "state.pt", weights_only=True)["model"]
    last = torch.load(small_runs.folder(free) / "checkpoints/last.pt", weights_only=True)["model"]
    assert all(not torch.equal(last[name], state[name]) for name in last if name.endswith("alpha"))


def test_the_contradiction_is_one_run_in_a_sweep(tmp_path):
    frozen = small_runs.config("schedule.freeze_alpha=true", tmp_path=tmp_path)
    both = small_runs.config("schedule.freeze_alpha=true", "reg.backprop_to_alpha=true", tmp_path=tmp_path)
    assert identity(frozen, "data") == identity(both, "data")
    assert [s.signature for s in plan(frozen, "data")] == [s.signature for s in plan(both, "data")]
