"""Networks of every make, each of images [B, 3, 8, 8]: those that conversion must keep, and those that it refuses.

SAME: name -> a function that makes the network. REFUSED: name -> that, and the words of the refusal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune


class Net(nn.Module):
    """[B, 3, 8, 8] -> [B, 4]. `middle` is what happens between the two halves; its ReLU works in place."""

    def __init__(self, middle: Callable | None = None, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.c1, self.r1 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)
        self.c2, self.r2 = conv or nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.fc, self.middle = nn.Linear(8, 4), middle or (lambda net, h: net.r1(h))
        self.idle, self.drop, self.flat, self.unflat = (
            nn.Identity(),
            nn.Dropout(0.5),
            nn.Flatten(2),
            nn.Unflatten(1, (2, 4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(self, self.c1(x))
        return self.fc(self.r2(self.c2(h)).mean((2, 3)))


def after(view: Callable) -> Callable:
    """The ReLU works on a view, and what it is a view of is read after it."""

    def middle(net: Net, h: Tensor) -> Tensor:
        net.r1(view(net, h))
        return h

    return middle


def before(view: Callable) -> Callable:
    """A view is taken, the ReLU works on the whole, and the view is read after it."""

    def middle(net: Net, h: Tensor) -> Tensor:
        seen = view(net, h)
        return net.r1(h) + seen.mean()

    return middle


@fx.wrap
def someones_own(h: Tensor) -> Tensor:
    return h if len(h) < 100 else h * 2


VIEWS: dict[str, Callable] = {
    "a function of one's own": lambda net, h: someones_own(h),
    "itself": lambda net, h: h,
    "slice": lambda net, h: h[:, :4],
    "slice of a slice": lambda net, h: h[:, :4][:, 1:],
    "flatten": lambda net, h: h.flatten(1),
    "torch.flatten": lambda net, h: torch.flatten(h, 1),
    "reshape": lambda net, h: h.reshape(h.shape[0], -1),
    "view": lambda net, h: h.view(h.size(0), -1),
    "transpose": lambda net, h: h.transpose(2, 3),
    "permute": lambda net, h: torch.permute(h, (0, 2, 3, 1)),
    "swapaxes": lambda net, h: h.swapaxes(1, 2),
    "movedim": lambda net, h: h.movedim(1, 3),
    "mT": lambda net, h: h.mT,
    "chunk": lambda net, h: h.chunk(2, 1)[0],
    "split": lambda net, h: torch.split(h, 4, 1)[1],
    "unbind": lambda net, h: h.unbind(1)[2],
    "narrow": lambda net, h: h.narrow(1, 0, 2),
    "select": lambda net, h: h.select(1, 0),
    "squeeze": lambda net, h: h.unsqueeze(0).squeeze(0),
    "expand": lambda net, h: h.expand(-1, -1, -1, -1),
    "unfold": lambda net, h: h.unfold(2, 4, 4),
    "detach": lambda net, h: h.detach(),
    "contiguous": lambda net, h: h.contiguous(),
    "to": lambda net, h: h.to(torch.float32),
    "float": lambda net, h: h.float(),
    "einsum": lambda net, h: torch.einsum("bchw->bhwc", h),
    "diagonal": lambda net, h: h.diagonal(dim1=2, dim2=3),
    "Identity": lambda net, h: net.idle(h),
    "Dropout": lambda net, h: net.drop(h),
    "Flatten": lambda net, h: net.flat(h),
    "Unflatten": lambda net, h: net.unflat(h),
    "in place, no ReLU": lambda net, h: h.mul_(2.0),
    "iadd": lambda net, h: h.__iadd__(1.0),
    "hardtanh": lambda net, h: F.hardtanh(h, -1.0, 1.0, True),
    "chain": lambda net, h: net.idle(h.flatten(2).transpose(1, 2)[:, :9]),
}

RELUS: dict[str, Callable] = {
    "F.relu by name": lambda h: F.relu(h, inplace=True),
    "F.relu by position": lambda h: F.relu(h, True),
    "F.relu6": lambda h: F.relu6(h, True),
    "F.relu_": F.relu_,
    "torch.relu_": torch.relu_,
    "method": lambda h: h.relu_(),
}


def spelled(relu: Callable) -> Callable:
    def middle(net: Net, h: Tensor) -> Tensor:
        relu(h[:, :4])
        return h

    return middle


def used(relu: Callable) -> Callable:
    return lambda net, h: relu(h.flatten(1).view(h.shape))


# --- hooks -----------------------------------------------------------------------------------------------------------


def _full(module, grad_in, grad_out):
    return tuple(None if g is None else 3 * g for g in grad_in)


HOOKS: dict[str, Callable] = {
    "forward": lambda m: m.register_forward_hook(lambda _, args, out: out * 2),
    "forward, keywords": lambda m: m.register_forward_hook(lambda _, args, kwargs, out: out * 2, with_kwargs=True),
    "forward, always": lambda m: m.register_forward_hook(lambda _, args, out: out * 2, always_call=True),
    "pre": lambda m: m.register_forward_pre_hook(lambda _, args: (args[0] * 2,)),
    "pre, keywords": lambda m: m.register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True
    ),
    "backward": lambda m: m.register_full_backward_hook(_full),
    "pre backward": lambda m: m.register_full_backward_pre_hook(lambda _, grad: (3 * grad[0],)),
}


def hooked(kind: str, where: str, **options) -> Callable:
    def make() -> nn.Module:
        net = Net(**options)
        net.r1.inplace = False
        HOOKS[kind](net.get_submodule(where))
        return net

    return make


# --- structures ------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.c, self.r, self.a, self.b = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8)
        self.r2, self.emb, self.how = nn.ReLU(), nn.Embedding(8, 8), how
        if how == "weight":
            self.b.weight = self.a.weight
        elif how == "bias":
            self.b.bias = self.a.bias
        elif how == "embedding":
            self.b.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.r2(self.a(self.r(self.c(x)).mean((2, 3))))
        return self.b(h + self.emb.weight[0]) if self.how == "embedding" else self.b(h)


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OwnInside(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class OwnName(nn.Conv2d):
    def extra_repr(self) -> str:
        return "own"


class OwnReLU(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def patched(name: str, bound: bool) -> Callable:
    """A module whose object has a forward of its own: a method bound to it, or a function that knows it."""

    def make() -> nn.Module:
        net = Net()
        module = net.get_submodule(name)
        twice = lambda self, x: 2 * type(self).forward(self, x)  # noqa: E731
        module.forward = MethodType(twice, module) if bound else lambda x: twice(module, x)
        return net

    return make


def with_own_relu() -> nn.Module:
    net = Net()
    net.r2 = OwnReLU(inplace=True)
    return net


class Tree(nn.Module):
    """A network that has to be split, since it calls ReLU as a function, with one thing that a trace may lose."""

    def __init__(self, what: str = "") -> None:
        super().__init__()
        self.c1, self.bn, self.c2, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.what, self.unused = what, nn.Linear(5, 5)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)
        self.register_buffer("idle", torch.tensor([2.0]))
        self.spare = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, mask: Tensor | None = None, double: bool = False) -> Tensor:
        h = self.bn(self.c1(x))
        if self.what == "no_grad":
            with torch.no_grad():
                h = self.bn(h)
        if mask is None:
            h = h * self.scale
        if double:
            h = 3 * h
        if self.what == "keeps":
            self.last = h
        return self.fc(F.relu(self.c2(F.relu(h))).mean((2, 3)))


class FrozenNorm(Tree):
    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.bn.eval()
        return self


class OneDimension(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(8, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 8, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)
        )
        self.net(torch.zeros(2, 8, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1).view(len(x), 8, 24))


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.ra, self.b, self.rb = nn.Conv3d(1, 4, 3), nn.ReLU(), nn.ConvTranspose3d(4, 4, (1, 3, 3)), nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rb(self.b(self.ra(self.a(x.unsqueeze(1))))).mean((2, 3, 4)))


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.r, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Linear(8, 4)
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.r(F.conv2d(x, self.c.weight, self.c.bias, padding=1)).mean((2, 3)) @ self.mix
        return F.linear(h, self.fc.weight, self.fc.bias)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.r, self.fc = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 4)
        self.attn, self.rnn = nn.MultiheadAttention(8, 2, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.r(self.c(x)).flatten(2).mT + self.token
        h = self.attn(h, h, h, need_weights=False)[0]
        return self.fc(self.rnn(h)[0].mean(1))


class Blocks(nn.Module):
    """Can't be traced; its layers lie in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)])
        self.acts, self.fc = nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.Linear(8, 4)
        self.attn = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block, act in zip(self.blocks, self.acts, strict=True):
            x = act(block(x)) if x.sum() < 1e9 else x
        h = x.mean((2, 3))
        return self.fc(self.attn(h, h, h)[0])


def layer(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Net(conv=make())


def conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


SAME: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    **{f"{name} used as it should be": lambda relu=relu: Net(used(relu)) for name, relu in RELUS.items()},
    "shape read after": lambda: Net(lambda net, h: net.r1(h).view(h.shape)),
    "a copy read after": lambda: Net(lambda net, h: net.r1(h.clone()) + h),
    **{f"{kind} hook on {where}": hooked(kind, where) for kind in HOOKS for where in ("c2", "r1", "fc", "")},
    **{f"tied {how}": lambda how=how: Tied(how) for how in ("weight", "bias", "embedding")},
    "subclass with a forward": layer(lambda: OwnForward(8, 8, 3)),
    "subclass with a forward inside": layer(lambda: OwnInside(8, 8, 3)),
    "subclass with a name": layer(lambda: OwnName(8, 8, 3)),
    "subclass of ReLU": with_own_relu,
    "patched layer": patched("c2", bound=True),
    "patched ReLU": patched("r2", bound=True),
    "adds in place": lambda: Net(lambda net, h: add_in_place(net.r1(h))),
    "adds in place, split": lambda: Net(lambda net, h: add_in_place(F.relu(h))),
    "works in place by operators, split": lambda: Net(lambda net, h: F.relu(operate_in_place(h))),
    "grouped, strided, circular": layer(lambda: nn.Conv2d(8, 8, 3, 2, 2, 2, 4, padding_mode="circular")),
    "ConvTranspose2d": layer(lambda: nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=2, dilation=2)),
    "weight_norm, parametrized": layer(lambda: parametrizations.weight_norm(conv())),
    "orthogonal, parametrized": layer(lambda: parametrizations.orthogonal(conv())),
    "bias parametrized": layer(lambda: nn.utils.parametrize.register_parametrization(conv(), "bias", nn.Tanh())),
    "one dimension": OneDimension,
    "functions with modules' weights": Functions,
    "attention, RNN, a token": Attention,
    "a list of modules, not traced": Blocks,
    "functional ReLUs, unused parameters, optional arguments": Tree,
    "a forward pass that leaves things behind": lambda: Tree("keeps"),
}  # fmt: skip

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    **{f"after {name}": (lambda v=view: Net(after(v)), "in place") for name, view in VIEWS.items()},
    **{f"before {name}": (lambda v=view: Net(before(v)), "in place") for name, view in VIEWS.items()},
    **{f"{name} on a view": (lambda r=relu: Net(spelled(r)), "in place") for name, relu in RELUS.items()},
    "in place on a buffer": (lambda: Net(lambda net, h: h + F.relu(net.c1.weight, True).sum()), "in place"),
    "weight_norm": (layer(lambda: _old("weight_norm")), r"^c2: its weight .*WeightNorm"),
    "spectral_norm": (layer(lambda: _old("spectral_norm")), r"^c2: its weight .*SpectralNorm"),
    "pruned": (layer(lambda: prune.l1_unstructured(conv(), "weight", 0.5)), r"^c2: its weight .*L1Unstruct"),
    "pruned bias": (layer(lambda: prune.l1_unstructured(conv(), "bias", 0.5)), r"^c2: its bias"),
    "a tensor of autograd": (lambda: _holding_a_result(), r"^c2: its kept"),
    "a gradient hook on a weight": (lambda: _with_parameter_hook(), r"^c2: hooks on its weight"),
    "lazy": (layer(lambda: nn.LazyConv2d(8, 3, padding=1)), r"^c2: its weight has no values"),
    "no parameters": (lambda: nn.Sequential(nn.ReLU()), "Sequential.*no weights"),
    "nothing": (nn.Sequential, "Sequential.*no weights"),
    "no layer": (lambda: nn.Sequential(nn.Embedding(4, 4)), "no layer or ReLU"),
    "a part without gradients": (lambda: Tree("no_grad"), "no_grad.*bn_1"),
    "a mode of its own": (FrozenNorm, "the method train of the network itself"),
    **{f"{k} hook on what is dissolved": (lambda k=k: _hooked_tree(k), "the hooks of the network") for k in HOOKS},
    "state hook on what is dissolved": (lambda: _state_hooked(Tree()), "the hooks of the network"),
    "a hook on a ReLU of two places": (lambda: _hooked_twice(), r"^r1: a ReLU with hooks"),
    "patched layer": (patched("c2", bound=False), "^c2: its forward"),
    "patched ReLU": (patched("r2", bound=False), "^r2: its forward"),
    "a layer at two places": (lambda: Net(lambda net, h: net.c2(net.r1(h))), r"^c2: .*several places"),
}  # fmt: skip


def _old(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(nn.utils, name)(conv())


def _holding_a_result() -> nn.Module:
    net = Net()
    net.c2.kept = net.c2.weight * 2
    return net


def _with_parameter_hook() -> nn.Module:
    net = Net()
    net.c2.weight.register_hook(lambda grad: 2 * grad)
    return net


def _hooked_tree(kind: str) -> nn.Module:
    net = Tree()
    HOOKS[kind](net)
    return net


def _state_hooked(net: nn.Module) -> nn.Module:
    net.register_load_state_dict_post_hook(lambda module, keys: None)
    return net


def _hooked_twice() -> nn.Module:
    net = Net(lambda net, h: net.r1(net.r1(h)))
    HOOKS["pre"](net.r1)
    return net


def add_in_place(h: Tensor) -> Tensor:
    seen, whole = h[:, 1:], h.clone()
    whole += seen.mean()
    part = whole.flatten(2)
    whole += 1.0
    return whole + part.mean()


def operate_in_place(h: Tensor) -> Tensor:
    before = h = h.clone()
    h -= 0.5
    h *= 1.5
    h /= 0.7
    rows = columns = h.shape[2]
    rows += 1
    return h + before + rows / columns
