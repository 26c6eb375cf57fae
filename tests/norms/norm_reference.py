"""Every norm again, in NumPy and float64, written from its paper's formula.

Each function takes the input ``x`` ``(N, C, H, W)``, the layer's state by its names in the `state_dict`, the layer's
options with defaults, and whether it trains; it returns the output and the running state after the call.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf, exp
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
State = dict[str, Array]
Reference = Callable[[Array, State, dict[str, Any], bool], tuple[Array, State]]

BATCH, LAYER, INSTANCE, CHANNEL = (0, 2, 3), (1, 2, 3), (2, 3), (1,)


def mean(x: Array, axes: tuple[int, ...]) -> Array:
    return np.mean(x, axis=axes, keepdims=True)


def variance(x: Array, axes: tuple[int, ...]) -> Array:
    return mean((x - mean(x, axes)) ** 2, axes)


def standardize(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    return (x - mean(x, axes)) / np.sqrt(variance(x, axes) + eps)


def affine(x: Array, state: State) -> Array:
    if "weight" in state:
        x = x * state["weight"].reshape(-1, 1, 1)
    if "bias" in state:
        x = x + state["bias"].reshape(-1, 1, 1)
    return x


def channel(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)


def moved(old: Array, new: Array, momentum: float) -> Array:
    return (1 - momentum) * old + momentum * new.reshape(old.shape)


def batch_statistics(x: Array, state: State, momentum: float, prefix: str, trains: bool) -> tuple[Array, Array, State]:
    """Mean and variance that BN uses, and its running state afterwards."""
    old_mean, old_variance = state[f"{prefix}running_mean"], state[f"{prefix}running_var"]
    if not trains:
        return channel(old_mean), channel(old_variance), {}
    count = x.size // x.shape[1]
    mu, var = mean(x, BATCH), variance(x, BATCH)
    after = {
        f"{prefix}running_mean": moved(old_mean, mu, momentum),
        f"{prefix}running_var": moved(old_variance, var * count / (count - 1), momentum),
    }
    return mu, var, after


def batch_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    mu, var, after = batch_statistics(x, state, options["momentum"], "", trains)
    return affine((x - mu) / np.sqrt(var + options["eps"]), state), after


def partial_batch_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    """BN as its options leave it; the running averages are of what training subtracts and divides by."""
    if options["center"] and options["deviation"] == "std" and options["learn_scale"]:
        return batch_norm(x, state, options, trains)
    after: State = {}
    if options["center"]:
        after["running_mean"] = mean(x, BATCH) if trains else channel(state["running_mean"])
        x = x - after["running_mean"]
    if options["deviation"] != "none":
        spread = np.sqrt(mean(x**2, BATCH) + options["eps"])
        if options["deviation"] == "l1":
            spread = np.sqrt(np.pi / 2) * mean(np.abs(x), BATCH) + options["eps"]
        after["running_deviation"] = spread if trains else channel(state["running_deviation"])
        x = x / after["running_deviation"]
    moved_to = {name: moved(state[name], value, options["momentum"]) for name, value in after.items()}
    return affine(x, state), moved_to if trains else {}


def moving_average_batch_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    """Of the first step, when the averages are the batch's own and r is 1."""
    eps, place = options["eps"], 1 % options["num_batches"]
    if not trains:
        return affine(x / np.sqrt(channel(state["running_mean_square"]) + eps), state), {}
    own = mean(x**2, BATCH)
    memory = state["mean_squares"].copy()
    memory[place] = own.ravel()
    running = moved(state["running_mean_square"], own, options["momentum"])
    after = {"running_mean_square": running, "mean_squares": memory, "num_steps": np.array(1.0)}
    return affine(x / np.sqrt(own + eps), state), after


def online_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    decay, eps = options["decay"], options["eps"]
    mu, var = state["running_mean"], state["running_var"]
    rows = []
    for sample in x:
        rows.append((sample - mu.reshape(-1, 1, 1)) / np.sqrt(var.reshape(-1, 1, 1) + eps))
        if trains:
            own_mean, own_variance = sample.mean((1, 2)), sample.var((1, 2))
            var = decay * var + (1 - decay) * own_variance + decay * (1 - decay) * (own_mean - mu) ** 2
            mu = decay * mu + (1 - decay) * own_mean
    y = affine(np.stack(rows), state)
    if options["layer_scaling"]:
        y = y / np.sqrt(mean(y**2, LAYER) + eps)
    return y, {"running_mean": mu, "running_var": var}


def iterative_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    count, channels = x.size // x.shape[1], x.shape[1]
    size = options["group_size"] or channels // (options["groups"] or 1)
    y, means, matrices = np.empty_like(x), [], []
    for group, start in enumerate(range(0, channels, size)):
        values = x[:, start : start + size].swapaxes(0, 1).reshape(size, count)
        mu, whitening = state["running_mean"][start : start + size], state["running_matrix"][group]
        if trains:
            mu = values.mean(1)
            centered = values - mu[:, None]
            covariance = options["eps"] * np.eye(size) + centered @ centered.T / count
            whitening = np.eye(size)
            for _ in range(options["num_iterations"]):
                whitening = (
                    1.5 * whitening - 0.5 * np.linalg.matrix_power(whitening, 3) @ covariance / covariance.trace()
                )
            whitening = whitening / np.sqrt(covariance.trace())
        means.append(mu)
        matrices.append(whitening)
        whitened = (whitening @ (values - mu[:, None])).reshape(size, len(x), *x.shape[2:])
        y[:, start : start + size] = whitened.swapaxes(0, 1)
    after = {
        "running_mean": moved(state["running_mean"], np.concatenate(means), options["momentum"]),
        "running_matrix": moved(state["running_matrix"], np.stack(matrices), options["momentum"]),
    }
    return affine(y, state), after if trains else {}


def global_response_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    energy = np.sqrt((x**2).sum(axis=INSTANCE, keepdims=True))
    relative = energy / (energy.mean(axis=1, keepdims=True) + options["eps"])
    return channel(state["weight"]) * x * relative + channel(state["bias"]) + x, {}


def batch_norm_nostats(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(standardize(x, BATCH, options["eps"]), state), {}


def ghost_batch_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    if not trains:
        return batch_norm(x, state, options, trains)
    running, parts = dict(state), []
    for start in range(0, len(x), options["norm_batch_size"]):
        y, after = batch_norm(x[start : start + options["norm_batch_size"]], running, options, True)
        running.update(after)
        parts.append(y)
    return np.concatenate(parts), {name: running[name] for name in ("running_mean", "running_var")}


def batch_renorm_correction(x: Array, state: State, options: dict[str, Any]) -> tuple[Array, Array]:
    """The r and d of the paper, which its gradient takes as constants."""
    sigma = np.sqrt(variance(x, BATCH) + options["eps"])
    r_limit, d_limit = float(state["r_limit"]), float(state["d_limit"])
    r = np.clip(sigma / channel(state["running_std"]), 1 / r_limit, r_limit)
    d = np.clip((mean(x, BATCH) - channel(state["running_mean"])) / channel(state["running_std"]), -d_limit, d_limit)
    return r, d


def batch_renorm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    if not trains:
        return affine((x - channel(state["running_mean"])) / channel(state["running_std"]), state), {}
    mu, sigma = mean(x, BATCH), np.sqrt(variance(x, BATCH) + options["eps"])
    r, d = options.get("correction") or batch_renorm_correction(x, state, options)
    after = {
        "running_mean": state["running_mean"] + options["momentum"] * (mu.ravel() - state["running_mean"]),
        "running_std": state["running_std"] + options["momentum"] * (sigma.ravel() - state["running_std"]),
    }
    return affine((x - mu) / sigma * r + d, state), after


def frozen_batch_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    deviation = np.sqrt(channel(state["running_var"]) + options["eps"])
    return affine((x - channel(state["running_mean"])) / deviation, state), {}


def layer_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(standardize(x, LAYER, options["eps"]), state), {}


def layer_norm_chw(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    y = standardize(x, LAYER, options["eps"])
    return (y * state["weight"] + state["bias"] if options["affine"] else y), {}


def layer_norm_2d(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(standardize(x, CHANNEL, options["eps"]), state), {}


def rms_norm_2d(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(x / np.sqrt(mean(x**2, CHANNEL) + options["eps"]), state), {}


def instance_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(standardize(x, INSTANCE, options["eps"]), state), {}


def group_slices(channels: int, options: dict[str, Any], default: int) -> list[slice]:
    size = options["group_size"] or channels // (options["groups"] or default)
    return [slice(start, start + size) for start in range(0, channels, size)]


def group_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    groups = group_slices(x.shape[1], options, default=4)
    return affine(np.concatenate([standardize(x[:, g], LAYER, options["eps"]) for g in groups], axis=1), state), {}


def group_rms(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    groups = group_slices(x.shape[1], options, default=4)
    parts = [x[:, g] / np.sqrt(mean(x[:, g] ** 2, LAYER) + options["eps"]) for g in groups]
    return affine(np.concatenate(parts, axis=1), state), {}


def softmax(logits: Array) -> Array:
    return np.exp(logits) / np.exp(logits).sum()


def switchable_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    means, variances, after = [mean(x, INSTANCE), mean(x, LAYER)], [variance(x, INSTANCE), variance(x, LAYER)], {}
    if options["use_bn"]:
        mu, var, after = batch_statistics(x, state, options["momentum"], "batch.", trains)
        means.append(mu)
        variances.append(var)
    mu = sum(w * m for w, m in zip(softmax(state["mean_logits"]), means, strict=True))
    var = sum(w * v for w, v in zip(softmax(state["variance_logits"]), variances, strict=True))
    return affine((x - mu) / np.sqrt(var + options["eps"]), state), after


def batch_instance_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    mu, var, after = batch_statistics(x, state, options["momentum"], "batch.", trains)
    batch = (x - mu) / np.sqrt(var + options["eps"])
    instance = standardize(x, INSTANCE, options["eps"])
    gate = channel(state["gate"])
    return affine(gate * batch + (1 - gate) * instance, state), after


def ibn_a(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    half = int(x.shape[1] * options["ratio"])
    mu, var, after = batch_statistics(x[:, half:], state, options["momentum"], "batch.", trains)
    first = standardize(x[:, :half], INSTANCE, options["eps"])
    rest = (x[:, half:] - mu) / np.sqrt(var + options["eps"])
    return affine(np.concatenate([first, rest], axis=1), state), after


def batch_channel_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    inner = {name.removeprefix("batch_norm."): value for name, value in state.items()}
    y, after = batch_norm(x, inner, options, trains)
    groups = group_slices(x.shape[1], options, default=4)
    parts = [
        standardize(y[:, g], LAYER, options["eps"]) * scale + shift
        for g, scale, shift in zip(groups, state["group_weight"], state["group_bias"], strict=True)
    ]
    return np.concatenate(parts, axis=1), {f"batch_norm.{name}": value for name, value in after.items()}


def filter_response_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    eps = abs(options["eps"]) + abs(float(state.get("learned_eps", np.zeros(()))))
    y = affine(x / np.sqrt(mean(x**2, INSTANCE) + eps), state)
    return np.maximum(y, channel(state["tau"])), {}


def evonorm_b(version: int) -> Reference:
    def reference(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
        eps, after = options["eps"], {}
        batch_variance = variance(x, BATCH) if trains else channel(state["running_var"])
        if trains:
            after["running_var"] = moved(state["running_var"], batch_variance, options["momentum"])
        if version == 0:
            other = channel(state["v1"]) * x + np.sqrt(variance(x, INSTANCE) + eps)
        elif version == 1:
            other = (x + 1) * np.sqrt(mean(x**2, INSTANCE) + eps)
        else:
            other = np.sqrt(mean(x**2, INSTANCE) + eps) - x
        return affine(x / np.maximum(np.sqrt(batch_variance + eps), other), state), after

    return reference


def evonorm_s(version: int) -> Reference:
    def reference(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
        groups = group_slices(x.shape[1], options, default=min(32, x.shape[1]))
        v1 = channel(state["v1"]) if version == 0 else 1.0
        activated = x / (1 + np.exp(-v1 * x))
        parts = []
        for g in groups:
            squared = mean(x[:, g] ** 2, LAYER) if version == 2 else variance(x[:, g], LAYER)
            parts.append(activated[:, g] / np.sqrt(squared + options["eps"]))
        return affine(np.concatenate(parts, axis=1), state), {}

    return reference


def dynamic_tanh(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    positive = np.exp(2 * state["alpha"] * x)
    return affine((positive - 1) / (positive + 1), state), {}


def dynamic_erf(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(np.vectorize(erf)(state["alpha"] * x + state["s"]), state), {}


def local_response_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    y = np.empty_like(x)
    size, channels = options["size"], x.shape[1]
    for c in range(channels):
        window = x[:, max(0, c - size // 2) : min(channels, c - size // 2 + size)]
        squares = options["alpha"] / size * (window**2).sum(axis=1)
        y[:, c] = x[:, c] / (options["k"] + squares) ** options["beta"]
    return y, {}


def no_norm(x: Array, state: State, options: dict[str, Any], trains: bool) -> tuple[Array, State]:
    return affine(x, state), {}


def weight_normalization(weight: Array, gain: Array) -> Array:
    """Of one convolution weight, ``(out, in, kernel, kernel)``."""
    return np.stack([g * w / np.sqrt((w**2).sum()) for g, w in zip(gain, weight, strict=True)])


def spectral_normalization(weight: Array) -> Array:
    """Of one convolution weight, with the exact largest singular value."""
    return weight / np.linalg.svd(weight.reshape(len(weight), -1), compute_uv=False)[0]


def weight_standardization(weight: Array) -> Array:
    """Of one convolution weight, ``(out, in, kernel, kernel)``."""
    rows = []
    for filter_weight in weight:
        deviation = np.sqrt(((filter_weight - filter_weight.mean()) ** 2).sum() / (filter_weight.size - 1))
        rows.append((filter_weight - filter_weight.mean()) / (deviation + 1e-5))
    return np.stack(rows)


def scaled_weight_standardization(weight: Array, gain: Array) -> Array:
    """Of one convolution weight, ``(out, in, kernel, kernel)``, before a ReLU."""
    relu_of_normal = [max(z, 0.0) for z in np.linspace(-9, 9, 200_001)]
    density = [exp(-(z**2) / 2) for z in np.linspace(-9, 9, 200_001)]
    first = np.average(relu_of_normal, weights=density)
    second = np.average(np.square(relu_of_normal), weights=density)
    gamma = 1 / np.sqrt(second - first**2)
    rows = []
    for filter_weight, scale in zip(weight, gain, strict=True):
        fan_in = filter_weight.size
        deviation = np.sqrt(((filter_weight - filter_weight.mean()) ** 2).mean())
        rows.append(scale * gamma * (filter_weight - filter_weight.mean()) / (np.sqrt(fan_in) * deviation))
    return np.stack(rows)


REFERENCES: dict[str, Reference] = {
    "bn": partial_batch_norm,
    "bn_nostats": batch_norm_nostats,
    "ghost_bn": ghost_batch_norm,
    "brn": batch_renorm,
    "frozen_bn": frozen_batch_norm,
    "custom_bn": batch_norm,
    "mabn": moving_average_batch_norm,
    "online": online_norm,
    "iternorm": iterative_norm,
    "ln": layer_norm,
    "ln_chw": layer_norm_chw,
    "ln2d": layer_norm_2d,
    "rms2d": rms_norm_2d,
    "pono": layer_norm_2d,
    "in": instance_norm,
    "gn": group_norm,
    "group_rms": group_rms,
    "sn": switchable_norm,
    "bin": batch_instance_norm,
    "ibn": ibn_a,
    "bcn": batch_channel_norm,
    "frn": filter_response_norm,
    "evonorm_b0": evonorm_b(0),
    "evonorm_b1": evonorm_b(1),
    "evonorm_b2": evonorm_b(2),
    "evonorm_s0": evonorm_s(0),
    "evonorm_s1": evonorm_s(1),
    "evonorm_s2": evonorm_s(2),
    "dyt": dynamic_tanh,
    "derf": dynamic_erf,
    "grn": global_response_norm,
    "lrn": local_response_norm,
    "none": no_norm,
}
