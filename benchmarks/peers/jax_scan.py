"""JAX: a scan over the steps, jitted, the products with the input ahead of it.

Weights lie as (in, out), with which its scans are up to twice as fast as with torch's (out, in).
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.peer import Array, Run, starts
from cellwright.app.bench.row import Cell, Work
from cellwright.app.bench.workload import Workload

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
import jax  # it reads the flags as it is imported
import jax.numpy as jnp

__all__ = ["PEER"]

_sigmoid, _tanh = jax.nn.sigmoid, jnp.tanh


def _lstm(products: Any, weights: Any, bias: Any, states: Any) -> Any:
    h, c = states
    i, f, g, o = jnp.split(products + h @ weights + bias, 4, axis=-1)
    c = _sigmoid(f) * c + _sigmoid(i) * _tanh(g)
    return _sigmoid(o) * _tanh(c), c


def _gru(products: Any, weights: Any, bias: Any, states: Any) -> Any:
    (h,) = states
    x_r, x_z, x_n = jnp.split(products, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ weights + bias, 3, axis=-1)
    z = _sigmoid(x_z + h_z)
    n = _tanh(x_n + _sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * h,)


def _rnn(products: Any, weights: Any, bias: Any, states: Any) -> Any:
    (h,) = states
    return (_tanh(products + h @ weights + bias),)


_STEPS: dict[Cell, Callable[[Any, Any, Any, Any], Any]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _layer(cell: Cell, x: Any, parameters: Any, states: Any) -> Any:
    """Return the output y (L, N, H) and the final states."""
    w_ih, w_hh, b_ih, b_hh = parameters

    def step(carried: Any, products: Any) -> Any:
        made = _STEPS[cell](products, w_hh, b_hh, carried)
        return made, made[0]

    finals, y = jax.lax.scan(step, states, x @ w_ih + b_ih)
    return y, finals


class _Jax:
    name = f"JAX {jax.__version__}"
    works: tuple[Work, ...] = ("call", "forward", "train")

    def prepare(self, reference: Workload) -> Run:
        """Compile the layer, or its gradients."""
        cell = reference.row.cell
        tensors = [reference.x_data, *reference.module.parameters()]
        arrays = [t.detach().numpy() for t in tensors]
        x, *parameters = (jnp.asarray(a.T if 0 < k < 3 else a) for k, a in enumerate(arrays))
        states = tuple(jnp.asarray(s[0]) for s in starts(reference))
        cotangent = jnp.asarray(reference.cotangents[0].numpy())

        def loss(x: Any, parameters: Any) -> Any:
            made = _layer(cell, x, parameters, states)
            return (made[0] * cotangent).sum(), made

        if reference.row.work == "train":
            compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        else:
            compiled = jax.jit(lambda x, parameters: _layer(cell, x, parameters, states))

        def call() -> Any:
            return jax.block_until_ready(compiled(x, parameters))

        def results() -> list[Array]:
            made, gradients = call(), []
            if reference.row.work == "train":
                (dx, (d_ih, d_hh, *biases)), made = made
                gradients = [dx, d_ih.T, d_hh.T, *biases]
            y, finals = made
            return [np.asarray(a) for a in (y, *(s[None] for s in finals), *gradients)]

        return Run(call, results)


PEER = _Jax()
