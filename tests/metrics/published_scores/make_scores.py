"""Scores the signals by the published code of each metric, and writes scores.json.

In an environment of its own, since msst's metrics ask for librosa and torchaudio:

    pip install torch torchaudio librosa auraloss==0.4.0 torch-log-wmse==1.1.0 log-wmse-audio-quality==0.2.0
    pip download --no-deps nussl==1.1.9 msst==0.1.0    # unpacked below WHEELS, since both ask for much more
    python make_scores.py WHEELS
"""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from auraloss.freq import MultiResolutionSTFTLoss
from log_wmse_audio_quality import calculate_log_wmse
from signals import signals
from torch_log_wmse import LogWMSE

RATE = 44100
OTHER_RATE = 16000


def function_of(path, name):
    """Returns a function of a module whose package cannot be imported."""
    tree = ast.parse(path.read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    module = {"np": np}
    exec(compile(ast.Module([found], []), str(path), "exec"), module)
    return module[name]


def module_of(path):
    spec = importlib.util.spec_from_file_location("published", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(wheels):
    scale_bss_eval = function_of(wheels / "nussl/evaluation/bss_eval.py", "_scale_bss_eval")
    msst = module_of(wheels / "msst/utils/metrics.py")
    distance = MultiResolutionSTFTLoss()
    sources, mixture, kinds = signals()
    # One gain for all channels: nussl's function takes one channel, which here are both after each other.
    flat = np.stack([source.astype(np.float64).ravel() for source in sources.values()], axis=1)
    scores = {}
    for kind, estimates in kinds.items():
        scores[kind] = {}
        for index, (stem, source) in enumerate(sources.items()):
            estimate = estimates[stem]
            true, estimated, mixed = (torch.from_numpy(each.T.copy()) for each in (source, estimate, mixture))
            _, si_sir, si_sar, *_ = scale_bss_eval(flat, estimate.astype(np.float64).ravel(), index)
            weighted = LogWMSE(sample_rate=RATE).per_stem(mixed[None], estimated[None, :, None], true[None, :, None])
            first = {
                rate: float(calculate_log_wmse(mixture.T, estimate.T, source.T, rate)) for rate in (RATE, OTHER_RATE)
            }
            bleedless, fullness = msst.bleed_full(source.T.copy(), estimate.T.copy(), sr=RATE)
            scores[kind][stem] = {
                "si-sir": float(si_sir),
                "si-sar": float(si_sar),
                "log-wmse": float(weighted.mean()),
                "log-wmse by its first publication": first[RATE],
                "log-wmse by its first publication at 16 kHz": first[OTHER_RATE],
                "spectral-distance": float(distance(estimated[None], true[None])),
                "bleedless": float(bleedless),
                "fullness": float(fullness),
            }
    path = Path(__file__).with_name("scores.json")
    path.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
