"""What steps and estimates export for accelerators: XLA's own convolutions, and none of the forms made for CPUs."""

import collections
import functools
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from jaxsep.models import FAMILIES
from jaxsep.separation.estimate import estimate_chunks
from jaxsep.training.objective import Batch, LossConfig, LossTerm, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from jaxsep.weights.demucs import demucs_spec
from jaxsep.weights.rules import SPECS
from jaxsep.weights.tree import expected_shapes, unflatten

# One of each family; every recipe as it is: tests/train/test_recipe_export.py.
NAMES = ("spleeter-2stems", "jansson", "classic-unet", "wave-unet-m5", "small-htdemucs")
ACCELERATORS = ["cuda", "tpu"]
EXAMPLES = 4
# As deep as it takes for every kind of layer to be there; a branch has an eighth of the channels, as published.
SMALL_HTDEMUCS = {
    "channels": 8,
    "samplerate": 8000,
    "nfft": 512,
    "depth": 2,
    "dconv_mode": 3,
    "dconv_depth": 1,
    "t_layers": 2,
    "t_heads": 2,
    "bottom_channels": 16,
    "segment": 1,
}


@functools.cache
def spec_of(name):
    if name != "small-htdemucs":
        return SPECS[name]
    stems = ("drums", "bass", "other", "vocals")
    return demucs_spec("demucs.htdemucs.HTDemucs", (stems,), SMALL_HTDEMUCS, name=name, segment=None, where=name)


@functools.cache
def exported(name, form, *, dtype=None, loss=None, clip_norm=None, accumulation=1, ema_decay=None):
    """One step's program for all accelerators at the model's own sizes. Shapes alone go in: nothing is computed."""
    spec = spec_of(name)
    model = FAMILIES[spec.family].module(spec.config, form=form, dtype=dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    waveform = (spec.chunk_length, spec.channels)
    seen = spec.input_shape()
    variables = jax.eval_shape(partial(model.init, train=False), key, jax.ShapeDtypeStruct((1, *seen), jnp.float32))
    if loss is None:
        loss = LossConfig() if len(seen) == 3 else LossConfig(terms=(LossTerm(kind="waveform_l2"),))
    optimizer = build_optimizer(OptimizerConfig(clip_norm=clip_norm), variables["params"])
    state = jax.eval_shape(partial(create_state, optimizer=optimizer, ema=ema_decay is not None), variables)
    batch = Batch(
        jax.ShapeDtypeStruct((EXAMPLES, *waveform), jnp.float32),
        jax.ShapeDtypeStruct((EXAMPLES, len(spec.stems), *waveform), jnp.float32),
    )
    step = partial(
        train_step,
        loss_fn=partial(objective, model=model, spec=spec, loss=loss, train=True),
        optimizer=optimizer,
        axis_name=None,
        accumulation=accumulation,
        ema_decay=ema_decay,
    )
    return export.export(jax.jit(step, donate_argnums=0), platforms=ACCELERATORS)(state, batch, key).mlir_module()


def operations(program):
    """How often each occurs, all but the choice itself: a constant index into one branch."""
    found = re.findall(r"stablehlo\.(\w+)", program)
    return collections.Counter(name for name in found if name not in ("case", "return", "constant"))


def assert_native(name, **options):
    # Where the choice gives all accelerators one form, it is one function, which is there once.
    auto, native = (operations(exported(name, form, **options)) for form in ("auto", "native"))
    assert auto == native
    assert native["convolution"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_exported_for_accelerators_equals_the_native_program(name):
    assert_native(name)


def test_so_does_one_with_accumulation_average_clipping_and_a_loss_on_waveforms():
    terms = (LossTerm(kind="magnitude_l1"), LossTerm(kind="multi_resolution_stft", weight=0.1))
    assert_native("spleeter-2stems", loss=LossConfig(terms=terms), clip_norm=1.0, accumulation=2, ema_decay=0.999)


def test_the_forms_for_cpus_would_be_seen():
    for name in ("jansson", "wave-unet-m5", "small-htdemucs"):
        assert operations(exported(name, "cpu")) != operations(exported(name, "native"))


def test_estimates_of_a_chunk_are_exported_with_one_attention_for_all_heads():
    spec = spec_of("small-htdemucs")

    def program(form):
        model = FAMILIES[spec.family].module(spec.config, form=form)
        function = jax.jit(partial(estimate_chunks, model=model, domain=spec.domain, sources=(0, 3)))
        shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in expected_shapes(spec).items()}
        chunks = jax.ShapeDtypeStruct((1, spec.chunk_length, spec.channels), jnp.float32)
        weights = jax.ShapeDtypeStruct((1, spec.chunk_length), jnp.float32)
        lowered = export.export(function, platforms=ACCELERATORS)(unflatten(shapes), (chunks, weights))
        return operations(lowered.mlir_module())

    auto, native, cpu = (program(form) for form in ("auto", "native", "cpu"))
    assert auto == native
    # Two products in each layer of both branches, on CPUs for each head by itself.
    products = 2 * 2 * spec.config.transformer.layers
    assert cpu["dot_general"] - native["dot_general"] >= (spec.config.transformer.heads - 1) * products


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_every_convolution_is_one_and_the_state_stays_float32(name):
    narrow, wide = exported(name, "auto", dtype=jnp.bfloat16), exported(name, "native")
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]+x(\w+)>", narrow)
    assert set(convolutions) == {"bf16"}
    assert len(convolutions) == operations(wide)["convolution"]
    assert signature(narrow) == signature(wide)


def signature(program):
    """Types of what goes into the program and comes out of it."""
    (line,) = re.findall(r"func\.func public @main\((.*)", program)
    return re.findall(r"tensor<(\S+?)>", line)
