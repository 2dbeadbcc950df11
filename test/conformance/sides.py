"""Hugging Face's side of all files of this folder, for python.ts: `python sides.py`.

Each line of standard input is a JSON list of a name and a folder. `<name>_side.py` does what it says there, and a line of standard output
says null, or what went wrong.
"""
import importlib
import json
import os
import sys
import traceback

import torch
import transformers

# what packages print is none of the answers
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

for line in sys.stdin:
    name, folder = json.loads(line)
    error = None
    try:
        importlib.import_module(f"{name}_side").main(folder)
    except Exception:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
