"""JAX and PyTorch with the same face, for bench/gpu.py: products of matrices, networks and steps, ready to be timed.

Both compute the same from the same weights and inputs on the device, in three cases: 'highest' (float32 throughout),
'default' (float32, products in TF32 where the chip has it) and 'bfloat16' (the network in bfloat16; its parameters, its
loss and the transform in float32). Each framework is imported when it is first used.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bench.gpu_networks import (
    Network,
    estimated_part,
    host_inputs,
    host_sources,
    sees_magnitudes,
    torch_magnitudes,
)

LEARNING_RATE = 1e-4


class Ready(NamedTuple):
    """Something that can be timed.

    Attributes:
        call: Begins one computation and returns what it gives.
        wait: Waits until that is computed.
        value: Makes a number of it, which both frameworks must agree on.
        memory_bytes: Returns the most that the device has held for it; None where the device does not tell.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    value: Callable[[Any], float]
    memory_bytes: Callable[[], int | None]


class Jax:
    """JAX, compiled ahead of the first call."""

    def __init__(self, *, tiny: bool) -> None:
        """Finds the device.

        Raises:
            RuntimeError: There is no accelerator, and the networks are not tiny.
        """
        import jax

        self.device = jax.devices()[0]
        if self.device.platform == "cpu" and not tiny:
            raise RuntimeError("JAX finds no GPU here; --tiny runs on a CPU")

    def matmul(self, size: int, case: str) -> Ready:
        """Prepares the product of two random matrices."""
        import jax
        import jax.numpy as jnp

        dtype = jnp.bfloat16 if case == "bfloat16" else jnp.float32
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        with self._precision(case):
            compiled = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
        return self._ready(compiled, lambda: compiled(matrix, matrix), lambda product: float(product[0, 0]))

    def forward(self, network: Network, batch: int, case: str) -> Ready:
        """Prepares the estimation of all sources of a batch."""
        import jax
        import numpy as np

        module = self._module(network, case)
        variables = jax.device_put(network.variables, self.device)
        inputs = self._repeated(host_inputs(network.spec, batch), batch)
        with self._precision(case):
            compiled = jax.jit(partial(module.apply, train=False)).lower(variables, inputs).compile()

        def value(estimates: Any) -> float:
            return float(np.abs(np.asarray(estimates[0], np.float32)).mean())

        return self._ready(compiled, lambda: compiled(variables, inputs), value)

    def step(self, network: Network, batch: int, case: str) -> Ready:
        """Prepares steps of Adam from waveforms on the device; the value is the loss."""
        import jax

        step, start = training_step(self._module(network, case), network)
        state, key = jax.jit(start)(network.variables), jax.random.key(1)
        examples = as_batch(self._repeated(host_sources(network.spec, batch), batch))
        with self._precision(case):
            compiled = step.lower(state, examples, key).compile()

        def call() -> Any:
            nonlocal state
            state, metrics = compiled(state, examples, key)
            return metrics.loss, state

        return self._ready(compiled, call, lambda result: float(result[0]))

    def free(self) -> None:
        """Does nothing: what nothing refers to is free."""

    def _ready(self, compiled: Any, call: Callable[[], Any], value: Callable[[Any], float]) -> Ready:
        import jax

        sizes = compiled.memory_analysis()
        taken = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        return Ready(call, jax.block_until_ready, value, lambda: taken - sizes.alias_size_in_bytes)

    def _module(self, network: Network, case: str) -> Any:
        return network.module.clone(dtype="bfloat16") if case == "bfloat16" else network.module

    def _repeated(self, examples: Any, batch: int) -> Any:
        import jax
        import jax.numpy as jnp

        placed = jax.device_put(examples, self.device)
        return jnp.tile(placed, (batch // len(examples), *(1 for _ in examples.shape[1:])))

    @staticmethod
    def _precision(case: str) -> Any:
        import jax

        return jax.default_matmul_precision("highest") if case == "highest" else contextlib.nullcontext()


def training_step(module: Any, network: Network) -> tuple[Any, Any]:
    """Returns jaxsep's own step under `jax.jit`, and what makes the state before the first one of variables."""
    import jax

    from jaxsep.training.objective import LossConfig, LossTerm, objective
    from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
    from jaxsep.training.state import create_state
    from jaxsep.training.step import train_step

    kind: Any = "magnitude_l1" if sees_magnitudes(network.spec) else "waveform_l2"
    loss = LossConfig(terms=(LossTerm(kind=kind),))
    optimizer = build_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE), network.variables["params"])
    loss_fn = partial(objective, model=module, spec=network.spec, loss=loss, train=True)
    step = partial(train_step, loss_fn=loss_fn, optimizer=optimizer, axis_name=None)
    return jax.jit(step, donate_argnums=0), partial(create_state, optimizer=optimizer, ema=False)


def as_batch(sources: Any) -> Any:
    """Returns sources with their mixture."""
    from jaxsep.training.objective import Batch

    return Batch(sources.sum(axis=1), sources)


class Torch:
    """PyTorch, eager or under `torch.compile`; networks on magnitudes are channels last in memory."""

    def __init__(self, *, tiny: bool, compiled: bool) -> None:
        """Finds the device.

        Raises:
            RuntimeError: There is no GPU, and the networks are not tiny.
        """
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu" and not tiny:
            raise RuntimeError("PyTorch finds no GPU here; --tiny runs on a CPU")
        self._compiled = compiled
        # As XLA does, it tries which of cuDNN's forms is fastest.
        torch.backends.cudnn.benchmark = True

    def matmul(self, size: int, case: str) -> Ready:
        """See `Jax`."""
        import torch

        self._begin(case)
        dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
        matrix = torch.randn(size, size, device=self._device, dtype=dtype)
        return self._ready(lambda: matrix @ matrix, lambda product: product[0, 0].item())

    def forward(self, network: Network, batch: int, case: str) -> Ready:
        """See `Jax`."""
        import torch

        self._begin(case)
        module, compute = self._module(network)
        module.eval()
        inputs = self._placed(host_inputs(network.spec, batch), batch).movedim(-1, 1)
        inputs = inputs.contiguous(memory_format=self._layout(network))

        def call() -> Any:
            with torch.inference_mode(), self._autocast(case):
                return compute(inputs)

        return self._ready(call, lambda estimates: estimates[0].float().abs().mean().item())

    def step(self, network: Network, batch: int, case: str) -> Ready:
        """See `Jax`."""
        import torch

        self._begin(case)
        spec = network.spec
        module, compute = self._module(network)
        module.train()
        # The fastest of PyTorch's three forms of Adam; filters that are not learned get no gradients.
        learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE, fused=True)
        sources = self._placed(host_sources(spec, batch), batch).movedim(-1, -2).contiguous()
        mixture = sources.sum(dim=1)

        def call() -> Any:
            optimizer.zero_grad(set_to_none=True)
            if sees_magnitudes(spec):
                inputs, targets = torch_magnitudes(spec, mixture), torch_magnitudes(spec, sources)
            else:
                inputs, targets = mixture, estimated_part(spec, sources)
            with self._autocast(case):
                estimates = compute(inputs.contiguous(memory_format=self._layout(network)))
            errors = estimates.float() - targets
            losses = errors.abs() if sees_magnitudes(spec) else errors.square()
            loss = losses.flatten(2).mean(dim=2).sum(dim=1).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return self._ready(call, lambda loss: loss.item())

    def free(self) -> None:
        """Gives the memory that nothing refers to back to the card."""
        import torch

        if self._compiled:
            torch.compiler.reset()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _begin(self, case: str) -> None:
        import torch

        torch.set_float32_matmul_precision("high" if case == "default" else "highest")
        torch.backends.cudnn.allow_tf32 = case == "default"
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _autocast(self, case: str) -> Any:
        import torch

        return torch.autocast(self._device, torch.bfloat16, enabled=case == "bfloat16")

    def _module(self, network: Network) -> tuple[Any, Any]:
        import torch

        from jaxsep.compare.frameworks import build_twin

        twin = build_twin(network.spec, network.variables, "torch")[0]
        twin = twin.to(self._device, memory_format=self._layout(network))
        return twin, torch.compile(twin, dynamic=False) if self._compiled else twin

    def _placed(self, examples: Any, batch: int) -> Any:
        import torch

        repeats = (batch // len(examples), *(1 for _ in examples.shape[1:]))
        return torch.from_numpy(examples).to(self._device).repeat(repeats)

    @staticmethod
    def _layout(network: Network) -> Any:
        import torch

        return torch.channels_last if sees_magnitudes(network.spec) else torch.contiguous_format

    def _ready(self, call: Callable[[], Any], value: Callable[[Any], float]) -> Ready:
        import torch

        if self._device == "cpu":
            return Ready(call, lambda _: None, value, lambda: None)
        return Ready(call, lambda _: torch.cuda.synchronize(), value, torch.cuda.max_memory_allocated)


Framework = Jax | Torch
