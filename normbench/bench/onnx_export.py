"""Networks exported to ONNX: the nodes that they become, and their latency under onnxruntime on the CPU."""

from __future__ import annotations

import io
import time
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from normbench.bench.results import InferRow, failure_of
from normbench.errors import EnvironmentProblem
from normbench.kernels.support import switched_off

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise `EnvironmentProblem` unless what exports and runs ONNX is installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise EnvironmentProblem(f"--onnx needs {', '.join(missing)}: pip install 'normbench[onnx]'")


def onnx_row(row: InferRow, model: nn.Module, images: Tensor, rounds: int, block_seconds: float) -> InferRow:
    """Return `row` with the exported graph of `model`, in evaluation mode, and the times of a batch of `images`.

    ONNX Runtime optimizes the graph as it does by default, and uses as many threads as torch. A network that cannot be
    exported is a row that says so.
    """
    import onnxruntime

    facts = {"variant": "onnx", "precision": "fp32", "batch_size": len(images)}
    try:
        content, num_nodes = export(model, images)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images.numpy()}
        (found,) = session.run(None, feed)
        with torch.no_grad():
            expected = model(images)
        difference = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max())
        seconds = [_time(lambda: session.run(None, feed), block_seconds) for _ in range(rounds)]
    except Exception as error:
        return row.model_copy(update={**facts, "failure": failure_of(error)})
    changes = {"onnx_nodes": num_nodes, "onnx_difference": difference, "seconds_per_batch": tuple(seconds)}
    return row.model_copy(update={**facts, **changes})


def export(model: nn.Module, images: Tensor) -> tuple[bytes, int]:
    """Return a network as ONNX, and the number of nodes of its graph before a runtime optimizes it."""
    with warnings.catch_warnings(), switched_off(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(model.eval(), (images,), dynamo=True, verbose=False)
    assert program is not None
    proto = program.model_proto
    return proto.SerializeToString(), len(proto.graph.node)


def _time(run: object, block_seconds: float) -> float:
    assert callable(run)
    run()
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < block_seconds or count == 0:
        run()
        count += 1
    return elapsed / max(count, 1)
