"""What the metrics take from Python: all that numpy makes an array of; channels first are refused, not computed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import AudioError
from jaxsep.metrics import bss_eval, global_sdr, museval_scores, si_sdr

REFERENCE = np.random.default_rng(0).standard_normal((900, 2)).astype(np.float32)
ESTIMATE = REFERENCE + 0.1 * np.random.default_rng(1).standard_normal((900, 2)).astype(np.float32)
CONTAINERS = [lambda array: array.tolist(), jnp.asarray, lambda array: array.astype(np.float64)]


@pytest.mark.parametrize("score", [global_sdr, si_sdr])
@pytest.mark.parametrize("container", CONTAINERS, ids=["lists", "jax", "float64"])
def test_ratios_of_the_same_samples_in_any_container_are_the_same(score, container):
    assert score(container(REFERENCE), container(ESTIMATE)) == score(REFERENCE, ESTIMATE)


@pytest.mark.parametrize("container", CONTAINERS, ids=["lists", "jax", "float64"])
def test_bss_eval_of_the_same_samples_in_any_container_is_the_same(container):
    references = {"vocals": REFERENCE, "drums": REFERENCE[::-1]}
    estimates = {"vocals": ESTIMATE, "drums": ESTIMATE[::-1]}
    expected = bss_eval(references, estimates, sample_rate=300)
    found = bss_eval(
        {stem: container(reference) for stem, reference in references.items()},
        {stem: container(estimate) for stem, estimate in estimates.items()},
        sample_rate=300,
    )
    assert np.isfinite(expected.median("vocals", "sir"))
    assert found.medians() == expected.medians()


@pytest.mark.parametrize("score", [bss_eval, museval_scores])
def test_bss_eval_refuses_channels_first_and_says_transpose(score):
    """Of 900 channels the filters would be a matrix of 460800 rows."""
    with pytest.raises(AudioError, match=r"2 samples of 900 channels, .*transpose it$"):
        score({"vocals": REFERENCE.T}, {"vocals": ESTIMATE.T}, sample_rate=300)
