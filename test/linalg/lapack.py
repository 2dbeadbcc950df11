"""Writes lapack.json: matrices and the left singular vectors that torch finds on a CPU, whose signs are LAPACK's. python lapack.py > lapack.json"""
import json

import torch

torch.manual_seed(7)
cases = []
for rows, columns in [(3, 3), (9, 9), (12, 9), (15, 9), (9, 13), (5, 20), (27, 27), (30, 34)]:
    matrix = torch.randn(rows, columns)
    U = torch.linalg.svd(matrix, full_matrices=False).U
    cases.append({"rows": rows, "columns": columns, "values": matrix.flatten().tolist(), "first": U.gather(0, U.abs().argmax(0, keepdim=True)).flatten().sign().int().tolist(), "at": U.abs().argmax(0).tolist()})
print(json.dumps(cases, separators=(",", ":")))
