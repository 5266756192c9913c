"""The Triton kernels as machine code, without a GPU: `python -m benchmarks.machine_code --capability 80,90`.

Compiles every variant ahead of time for the cards named by their compute capability, and says of each what decides how
fast it can be: registers of a thread, bytes spilled, bytes of shared memory, barriers within the loop over tiles, and
the loop's instructions for each value of a thread, seldom branches included. It counts; it times nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_ahead

from brsweep.kernels import cuda
from brsweep.quant.grid import Grid

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {"float32": "fp32", "bfloat16": "bf16"}
WHOLE, NUMBERS = ("length", "programs", "tiles", "columns", "blocks"), ("floor", "ceiling", "high", "low")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
WARP = 32
WARPS = {cuda.quantize_to_table: cuda.TABLE_WARPS, cuda.add_up: cuda.ADDED_WARPS}
"""Of a program, where they are not Triton's choice."""
HEAD = (
    "| kernel | registers | spilled | shared | barriers in loop | instructions per value |\n|---|---|---|---|---|---|"
)


class Variant(NamedTuple):
    """A kernel with its constants. tile: values that a program works off at a time."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    tile: int
    dtype: str


class Code(NamedTuple):
    registers: int
    spilled: int
    shared: int
    barriers: int
    per_value: float


def variants() -> Iterator[Variant]:
    for what, width in (("slopes", 1), ("sums", cuda.ADDED_COLUMNS)):
        fixed = {"HEIGHT": min(cuda.MOST_PROGRAMS, cuda.ADDED_TILE // width), "WIDTH": width}
        yield Variant(f"add up, {what}", cuda.add_up, fixed, fixed["HEIGHT"] * width, "float32")
    for dtype in TYPES:
        for bits in (1, 2, 3, 4, 5, 8):
            grid = Grid(bits, signed=bits > 1)
            ends = {"QN": grid.qn, "QP": grid.qp}
            for sums in ("", "all", "inside"):
                name = f"quantize, {bits} bits, {f'sums of {sums}' if sums else 'no sums'}, {dtype}"
                fixed = ends | {"INSIDE_ONLY": sums == "inside"}
                if sums and grid.bins > cuda.FEW_BINS:
                    tile = cuda.TABLE_TILE
                    yield Variant(name, cuda.quantize_to_table, fixed | {"TILE": tile}, tile, dtype)
                else:
                    per = cuda.PER_WITH_SUMS if sums else cuda.PER
                    fixed |= {"SUMS": bool(sums), "BINS": grid.bins, "LANES": cuda.LANES, "PER": per}
                    yield Variant(name, cuda.quantize, fixed, cuda.LANES * per, dtype)
                fixed = ends | {"PULLED": bool(sums), "INSIDE_ONLY": sums == "inside"}
                fixed |= {"LANES": cuda.LANES, "PER": cuda.PER}
                name = name.replace("quantize", "gradients")
                yield Variant(name, cuda.gradients, fixed, cuda.LANES * cuda.PER, dtype)


def compiled(variant: Variant, capability: int) -> Code:
    """As it runs where lengths are multiples of 16, which nearly all are."""
    names = variant.kernel.arg_names
    signature = {name: _type(name, variant) for name in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if "*" in signature[n] or n == "length"}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    source = ASTSource(fn=variant.kernel, signature=signature, constexprs=constants, attrs=attributes)
    warps = {"num_warps": WARPS[variant.kernel]} if variant.kernel in WARPS else {}
    made = compile_ahead(source, target=GPUTarget("cuda", capability, WARP), options=warps)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        listing = _tool("nvdisasm", "-c", file.name)
    count = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loop = _main_loop(listing)
    values = variant.tile / (WARP * made.metadata.num_warps)
    barriers = sum(name.startswith("BAR") for name in loop)
    return Code(count["REG"], count["STACK"] + count["LOCAL"], made.metadata.shared, barriers, len(loop) / values)


def _type(name: str, variant: Variant) -> str:
    if name in variant.constants:
        return "constexpr"
    if name in WHOLE:
        return "i32"
    if name in NUMBERS:
        return "fp32"
    if name == "alphas":
        return "*fp32"
    unused = (name == "pulls" and not variant.constants["PULLED"]) or not variant.constants.get("SUMS", True)
    if name in ("slopes", "pulls", "by_program") and not unused:
        return "*fp64"
    return f"*{TYPES[variant.dtype]}"


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def _main_loop(listing: str) -> list[str]:
    """The instructions of the longest piece that a branch jumps back over."""
    names: list[str] = []
    labels: dict[str, int] = {}
    loop: list[str] = []
    for line in listing.splitlines():
        label, instruction = LABEL.match(line), INSTRUCTION.match(line)
        if label:
            labels[label.group(1)] = len(names)
        if instruction:
            names.append(instruction.group(1))
            target = re.search(r"\.L_x_\d+", instruction.group(2)) if names[-1].startswith("BRA") else None
            if target and target.group() in labels:
                loop = max(loop, names[labels[target.group()] :], key=len)
    return loop


def row(variant: Variant, code: Code) -> str:
    numbers = f"{code.registers} | {code.spilled} | {code.shared} | {code.barriers} | {code.per_value:.0f}"
    return f"| {variant.name} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", default="80,90", help="compute capabilities, such as 80 (A100), 90 (H100)")
    for capability in map(int, parser.parse_args().capability.split(",")):
        print(f"\nTriton {triton.__version__}, sm_{capability}\n\n{HEAD}")
        for variant in variants():
            print(row(variant, compiled(variant, capability)), flush=True)


if __name__ == "__main__":
    main()
