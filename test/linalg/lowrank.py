"""Writes lowrank.json: torch.svd_lowrank with a seed. Run from this folder: python lowrank.py (torch 2.15)"""
import json
import torch

cases = []
for seed, m, n, q, niter in [(0, 7, 5, 3, 2), (5, 4, 9, 2, 0), (11, 12, 12, 6, 1)]:
    torch.manual_seed(100 + seed)
    A = torch.randn(m, n)
    torch.manual_seed(seed)
    U, S, V = torch.svd_lowrank(A, q=q, niter=niter)
    cases.append({"seed": seed, "shape": [m, n], "q": q, "niter": niter, "A": A.flatten().tolist(), "S": S.tolist(), "product": ((U * S) @ V.T).flatten().tolist()})
with open("lowrank.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
