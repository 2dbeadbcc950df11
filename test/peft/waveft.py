"""Writes waveft.json: changes of weights that peft makes of drawn spectra, for wavelets of several lengths. python waveft.py > waveft.json"""
import json

import torch
from peft.tuners.waveft.config import WaveFTConfig
from peft.tuners.waveft.layer import WaveFTLinear

torch.manual_seed(5)
cases = []
for family, out, into in [("db1", 5, 4), ("db2", 7, 10), ("db7", 3, 12), ("sym3", 6, 5), ("sym9", 9, 2), ("coif2", 8, 7), ("coif4", 4, 11)]:
    config = WaveFTConfig(n_frequency=6, scaling=3.0, wavelet_family=family, random_loc_seed=out, init_weights=False)
    layer = WaveFTLinear(torch.nn.Linear(into, out), "default", config, n_frequency=6)
    with torch.no_grad():
        layer.waveft_spectrum["default"].normal_()
        delta = layer.get_delta_weight("default")
    cases.append({"family": family, "in": into, "out": out, "spectrum": layer.waveft_spectrum["default"].tolist(), "delta": delta.flatten().tolist()})
print(json.dumps(cases, separators=(",", ":")))
