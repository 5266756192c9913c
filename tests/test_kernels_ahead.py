"""The Triton kernels as machine code, compiled ahead of time: every variant fits its registers, and no thread waits in
the loop over tiles. It needs Triton and no GPU."""

from __future__ import annotations

import importlib.util

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CAPABILITIES = (80, 90)
REGISTERS = 168
"""Of a thread, at most: three programs of four warps on a multiprocessor of 65,536."""
SHARED = 16 * 2**10
PER_VALUE = {"quantize": 160, "gradients": 80, "add_up": 20}
TABLE_PER_VALUE = 1_500


@pytest.mark.slow
@pytest.mark.system
@needs_triton
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_variant(capability):
    from benchmarks import machine_code

    seen = []
    for variant in machine_code.variants():
        code = machine_code.compiled(variant, capability)
        by_table = variant.kernel.__name__ == "quantize_to_table"
        most = TABLE_PER_VALUE if by_table else PER_VALUE[variant.kernel.__name__]
        assert code.spilled == 0 and code.registers <= REGISTERS and code.shared <= SHARED, (variant.name, code)
        assert 0 < code.per_value <= most, (variant.name, code)
        assert code.barriers == 0 or by_table, (variant.name, code)
        seen.append(variant.name)
    assert len(seen) == len(set(seen)) == 74


@pytest.mark.system
@needs_triton
def test_the_loop_is_the_longest_that_a_branch_jumps_back_over():
    from benchmarks.machine_code import _main_loop

    listing = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, desc[UR4][R2.64] ;
        /*0020*/              @!P0 FADD R0, R2, R0 ;
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
        /*0050*/                   EXIT ;
.L_x_1:
        /*0060*/                   BRA `(.L_x_1);
    """
    assert _main_loop(listing) == ["LDG.E", "FADD", "BAR.SYNC.DEFER_BLOCKING", "BRA"]
