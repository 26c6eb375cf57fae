"""Compiles the convolutions between layers for an H100, which needs no GPU, and prints how each loads its operands."""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from normbench.triton_code import conv_kernels

SHAPE = {"HEIGHT": 32, "WIDTH": 32, "CHANNELS": 64, "CHANNELS_OUT": 128, "KERNEL": 3, "STRIDE": 2}
TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "STAGES": 3}
KERNELS = {
    "forward": (("x", "weight", "y"), {"bias": None, "RELU": False}),
    "input_gradient": (("dy", "weight", "dx", "x"), {"RELU": False}),
    "weight_gradient": (("dy", "x", "shares"), {"SPLIT": 4, "WHOLE_LINES": True}),
}

found = {}
for name, (pointers, more) in KERNELS.items():
    kernel, constants = getattr(conv_kernels, name), SHAPE | TILE | more
    types = {pointer: "*fp32" if pointer == "shares" else "*bf16" for pointer in pointers}
    signature = types | {"images": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        {argument: signature[argument] for argument in kernel.arg_names},
        constexprs={(kernel.arg_names.index(argument),): value for argument, value in constants.items()},
        attrs={(kernel.arg_names.index(pointer),): [["tt.divisibility", 16]] for pointer in pointers},
    )
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    found[name] = {
        "16 bytes ahead": len(re.findall(r"cp\.async\.cg\.shared\.global", ptx)),
        "2 bytes": len(re.findall(r"ld\.global\.b16", ptx)),
    }
print(json.dumps(found))
