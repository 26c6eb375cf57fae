"""Connecting to a Ray cluster, or starting one on this machine, without what Ray is known to disturb a program with."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normbench.cluster.options import ClusterOptions
from normbench.errors import ConfigError, EnvironmentProblem, first_line
from normbench.experiment.interrupts import SIGNALS

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it reports home unless told not to
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # it would install everything again for each worker of `uv run normbench`
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS": "0",
}
_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without clusters, Ray binds its ports to 127.0.0.1
    "RAY_AUTH_MODE": "token",
}
"""For a cluster of this machine alone: reachable from it alone, and only by those who know the token."""
_SECONDS_TO_ANSWER = 5.0
_LOCAL_OBJECT_STORE_BYTES = 300 * 2**20
_EPHEMERAL = "local"


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Any]:
    """Connect to the cluster and yield the module ``ray``; a cluster of this machine alone ends with the block.

    Raises:
        ConfigError: the address is written wrongly.
        EnvironmentProblem: Ray is not installed or does not run here, or no cluster answers at the address.
    """
    _check_platform()
    _check_address(options.address)
    before = dict(os.environ)
    os.environ |= {name: value for name, value in _QUIET.items() if name not in os.environ}
    if options.address == _EPHEMERAL:
        os.environ |= {**_LOOPBACK, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(**_arguments(options))
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise EnvironmentProblem(_no_cluster(options.address, first_line(error))) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray has put its own in place of that of SIGTERM
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()
        for name in (*_QUIET, *_LOOPBACK, "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
            os.environ |= {name: before[name]} if name in before else {}


def require_ray() -> None:
    """Raise `EnvironmentProblem` where Ray is not installed, with the line that installs it."""
    if importlib.util.find_spec("ray") is None:
        raise EnvironmentProblem("--cluster needs Ray, which is not installed: pip install 'normbench[ray]'")


def _check_platform() -> None:
    require_ray()
    if not sys.platform.startswith("linux"):
        raise EnvironmentProblem(
            f"--cluster: Ray does not support clusters on {sys.platform}; without it, runs go here"
        )


def _check_address(address: str) -> None:
    """Raise unless the address is one of the allowed forms and, where it names a place, something listens there."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"--cluster {address}: Ray Client ends the work when its connection breaks; start normbench on a node of "
            "the cluster, with --cluster auto, or give the HOST:PORT of its head (6379 by default)"
        )
    if address == _EPHEMERAL:
        return
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _last_cluster() or "auto"
    host, colon, port = address.rpartition(":")
    if not colon and address == "auto":
        return
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"--cluster {address}: write it as auto, local or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise EnvironmentProblem(_no_cluster(address, error.strerror or first_line(error))) from None


def _last_cluster() -> str | None:
    """Return the address of the cluster that was last started on this machine, where Ray's own command notes it."""
    try:
        return Path("/tmp/ray/ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _no_cluster(address: str, reason: str) -> str:
    ways = "`ray start --head` starts one; --cluster local needs none"
    return f"--cluster {address}: no Ray cluster answers there ({reason}); {ways}"


def _arguments(options: ClusterOptions) -> dict[str, Any]:
    """Return what `ray.init` is called with: no output of its own, and for a cluster of this call little memory."""
    found: dict[str, Any] = {
        "address": options.address,
        "include_dashboard": False,
        "configure_logging": False,
        "log_to_driver": False,
        "namespace": "normbench",
    }
    if options.address == _EPHEMERAL:
        # A path of its own for each user, and a short one: sockets lie in it, whose paths may have 107 bytes.
        found |= {"object_store_memory": _LOCAL_OBJECT_STORE_BYTES, "_temp_dir": f"/tmp/nb-ray-{os.getuid()}"}
    if options.ship_code:
        found["runtime_env"] = {"py_modules": [str(Path(__file__).resolve().parent.parent)]}
    return found
