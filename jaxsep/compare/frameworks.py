"""The same network in JAX, PyTorch and TensorFlow behind one face, for measurements. Each is imported when it is built.

What is measured with them is in speed.py and speed_leg.py; twins.py finds the twins.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from jaxsep.compare.twins import build_twin
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables

# Spleeter's.
LEARNING_RATE = 1e-4

Inputs = np.ndarray
# Makes the call once, and returns when its result is in host memory.
Call = Callable[[], Any]
# Makes a step on a mixture and its sources, and returns the loss when the parameters are updated too.
Step = Callable[[Inputs, Inputs], float]


class Framework(Protocol):
    """A framework with the network built in it.

    Calls take what the network maps, magnitudes (batch, frame, freq, channel) or waveforms (batch, time, channel), from
    host memory, and end when the estimates, or the loss and the updated parameters, are computed.
    """

    def inference(self, mixture: Inputs) -> tuple[Call, Call]:
        """Returns what compiles (and does nothing where there is no such thing), and what estimates the sources."""
        ...

    def training(self, mixture: Inputs, sources: Inputs, learning_rate: float = LEARNING_RATE) -> tuple[Call, Step]:
        """Returns what compiles for such inputs, and what makes a step of Adam on the mean absolute error."""
        ...

    def variables(self) -> Variables:
        """Returns the weights as the variables of our module, after the steps that were made."""
        ...

    def device_memory_bytes(self) -> int | None:
        """Returns the most that the device has held; None where it does not tell, as CPUs do not."""
        ...


class Jax:
    """Ours, under `jax.jit`."""

    def __init__(self, spec: ModelSpec, variables: Variables, threads: int) -> None:
        """Places the weights; XLA takes as many threads as the process may use processors."""
        import jax

        self._module = spec.network()
        self._variables = jax.device_put(variables)

    def inference(self, mixture: Inputs) -> tuple[Call, Call]:
        """See `Framework`."""
        import jax

        apply = jax.jit(lambda variables, inputs: self._module.apply(variables, inputs, train=False))
        return _compiled(apply, lambda call: np.asarray(call(self._variables, mixture)), (self._variables, mixture))

    def training(self, mixture: Inputs, sources: Inputs, learning_rate: float = LEARNING_RATE) -> tuple[Call, Step]:
        """See `Framework`."""
        import jax
        import jax.numpy as jnp

        from jaxsep.training.optimizer import OptimizerConfig, build_optimizer

        optimizer = build_optimizer(OptimizerConfig(learning_rate=learning_rate), self._variables["params"])
        # Copies, because the step overwrites them.
        params, statistics = jax.tree.map(
            jnp.array, (self._variables["params"], self._variables.get("batch_stats", {}))
        )
        state = (params, statistics, optimizer.init(params), jax.random.key(1))

        def step(state: Any, mixture: Any, sources: Any) -> Any:
            params, statistics, moments, key = state
            key, dropout = jax.random.split(key)

            def loss(params: Variables) -> Any:
                estimates, updated = self._module.apply(
                    {"params": params, **({"batch_stats": statistics} if statistics else {})},
                    mixture,
                    train=True,
                    rngs={"dropout": dropout},
                    mutable=["batch_stats"],
                )
                return jnp.abs(estimates - sources).mean(), updated.get("batch_stats", statistics)

            (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(gradients, moments, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, statistics, moments, key), value

        def make(call: Any, mixture: Inputs, sources: Inputs) -> float:
            nonlocal state
            state, value = call(state, mixture, sources)
            params, statistics, *_ = state
            self._variables = {"params": params, **({"batch_stats": statistics} if statistics else {})}
            return float(jax.block_until_ready((value, state))[0])

        return _compiled(jax.jit(step, donate_argnums=0), make, (state, mixture, sources))

    def variables(self) -> Variables:
        """See `Framework`."""
        import jax

        return jax.device_get(self._variables)

    def device_memory_bytes(self) -> int | None:
        """See `Framework`."""
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _compiled(function: Any, use: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Call, Callable[..., Any]]:
    compiled: list[Any] = []
    return lambda: compiled.append(function.lower(*arguments).compile()), lambda *inputs: use(compiled[0], *inputs)


class PyTorch:
    """The PyTorch twin, channels last in memory, eager or under `torch.compile`."""

    def __init__(self, spec: ModelSpec, variables: Variables, threads: int, *, compiled: bool = False) -> None:
        """Builds the twin and copies the weights."""
        import torch

        torch.set_num_threads(threads)
        network, self._twin = build_twin(spec, variables, "torch")
        # Kernels of two spatial axes are moved, all others stay: torch has no such format for them.
        self._network = network = network.to(memory_format=torch.channels_last)
        self._call = torch.compile(network) if compiled else network

    def inference(self, mixture: Inputs) -> tuple[Call, Call]:
        """See `Framework`."""
        import torch

        inputs = self._inputs(mixture)
        self._network.eval()

        def estimate() -> np.ndarray:
            with torch.inference_mode():
                return self._call(inputs).movedim(2, -1).numpy()

        return _nothing, estimate

    def training(self, mixture: Inputs, sources: Inputs, learning_rate: float = LEARNING_RATE) -> tuple[Call, Step]:
        """See `Framework`."""
        import torch

        # The fastest of torch's three forms of Adam.
        optimizer = torch.optim.Adam(self._network.parameters(), lr=learning_rate, fused=True)

        def step(mixture: Inputs, sources: Inputs) -> float:
            self._network.train()
            optimizer.zero_grad(set_to_none=True)
            loss = (self._call(self._inputs(mixture)) - torch.from_numpy(sources).movedim(-1, 2)).abs().mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        return _nothing, step

    def variables(self) -> Variables:
        """See `Framework`."""
        return self._twin.to_variables(self._network)

    def device_memory_bytes(self) -> int | None:
        """See `Framework`: the twin runs on the CPU."""
        return None

    def _inputs(self, mixture: Inputs) -> Any:
        """A view of the same memory, channels second in shape and last in memory: no copy is timed."""
        import torch

        return torch.from_numpy(mixture).movedim(-1, 1)


class TensorFlow:
    """The Keras twin on TensorFlow, eager or under `tf.function`."""

    def __init__(self, spec: ModelSpec, variables: Variables, threads: int, *, compiled: bool = False) -> None:
        """Builds the twin and copies the weights."""
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._network, self._twin = build_twin(spec, variables, "tensorflow")
        self._wrap = tf.function if compiled else (lambda function: function)

    def inference(self, mixture: Inputs) -> tuple[Call, Call]:
        """See `Framework`."""
        import tensorflow as tf

        inputs = tf.constant(mixture)
        call = self._wrap(lambda magnitude: self._network(magnitude, training=False))
        return _nothing, lambda: call(inputs).numpy()

    def training(self, mixture: Inputs, sources: Inputs, learning_rate: float = LEARNING_RATE) -> tuple[Call, Step]:
        """See `Framework`."""
        import keras
        import tensorflow as tf

        class Adam(keras.optimizers.Adam):
            """Adam as in its paper, in optax and in torch. Keras adds epsilon before the bias is corrected."""

            def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
                steps = tf.cast(self.iterations + 1, variable.dtype)
                self.epsilon = 1e-8 * tf.sqrt(1 - self.beta_2**steps)
                super().update_step(gradient, variable, learning_rate)

        optimizer = Adam(learning_rate)
        optimizer.build(self._network.trainable_variables)

        def step(inputs: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.abs(self._network(inputs, training=True) - targets))
            variables = self._network.trainable_variables
            optimizer.apply_gradients(
                zip(tape.gradient(loss, [variable.value for variable in variables]), variables, strict=True)
            )
            return loss

        call = self._wrap(step)
        return _nothing, lambda mixture, sources: float(call(tf.constant(mixture), tf.constant(sources)))

    def variables(self) -> Variables:
        """See `Framework`."""
        return self._twin.to_variables(self._network)

    def device_memory_bytes(self) -> int | None:
        """See `Framework`: the twin runs on the CPU."""
        return None


# What builds each of `jaxsep.compare.legs.PACKAGES`.
FRAMEWORKS: dict[str, Callable[[ModelSpec, Variables, int], Framework]] = {
    "jax": Jax,
    "torch": PyTorch,
    "torch-compile": lambda spec, variables, threads: PyTorch(spec, variables, threads, compiled=True),
    "tensorflow": TensorFlow,
    "tensorflow-function": lambda spec, variables, threads: TensorFlow(spec, variables, threads, compiled=True),
}


def _nothing() -> None:
    """There is nothing to compile before the first call."""
