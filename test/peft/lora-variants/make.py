"""Forms of LoRA on one layer, by peft's own classes: `python make.py` writes expected.json. See ../lora-variants.test.ts."""
import json
import os

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from peft.tuners.lora.variants import QALoraLinearVariant

torch.set_num_threads(1)
torch.manual_seed(2)
here = os.path.dirname(os.path.abspath(__file__))
into, out, r = 12, 7, 3


class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(into, out)

    def forward(self, x):
        return self.layer(x)


values = lambda tensor: tensor.detach().flatten().tolist()
weight, bias = torch.randn(out, into) * 0.3, torch.randn(out) * 0.3
batches = [torch.randn(2, 3, into) + 0.2 for _ in range(3)]


def make(**options):
    base = Holder()
    with torch.no_grad():
        base.layer.weight.copy_(weight)
        base.layer.bias.copy_(bias)
    model = get_peft_model(base, LoraConfig(r=r, lora_alpha=5, target_modules=["layer"], init_lora_weights=False, **options))
    return model, model.base_model.model.layer


found = {"weight": values(weight), "bias": values(bias), "batches": [values(x) for x in batches], "velora": {}, "qalora": {}}
A, B = torch.randn(r, into) * 0.4, torch.randn(out, r) * 0.4
found["A"], found["B"] = values(A), values(B)

for init_type in ("batch_average", "batch_average_once"):
    model, layer = make(velora_config=VeloraConfig(num_groups=5, scale=1.5, init_type=init_type))
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(A)
        layer.lora_B["default"].weight.copy_(B)
    model.train()
    steps = []
    for x in batches:
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        steps.append({"y": values(y), "A": values(layer.lora_A["default"].weight.grad), "direction": values(layer.lora_velora_embed["default"])})
    found["velora"][init_type] = steps

for g in (1, 2, 4, 12):
    model, layer = make(use_qalora=True, qalora_group_size=g)
    # peft does so for layers of GPTQ codes
    QALoraLinearVariant.init(layer, "default", LoraConfig(use_qalora=True, qalora_group_size=g))
    small = torch.randn(r, into // g) * 0.4
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(small)
        layer.lora_B["default"].weight.copy_(B)
    x = batches[0]
    y = QALoraLinearVariant.forward(layer, "default", x, layer.base_layer(x))
    y.square().sum().backward()
    found["qalora"][str(g)] = {"A": values(small), "y": values(y), "dA": values(layer.lora_A["default"].weight.grad), "dB": values(layer.lora_B["default"].weight.grad)}

model, layer = make(monteclora_config=MontecloraConfig(num_samples=4, use_entropy=True, dirichlet_prior=0.3, sample_scaler=0.2, kl_loss_weight=0.01, buffer_size=2))
sampler = layer.lora_monteclora_sampler["default"]
model.train()
std, weights = torch.tensor([0.3, -0.6, 1.1]), torch.tensor([0.2, -1.3, 0.9, 2.0])
with torch.no_grad():
    sampler.std_prior.copy_(std)
    sampler.expert_weights_prior.copy_(weights)
z_mvn, z_dirichlet, z = torch.randn(4, into, r), torch.randn(4), torch.randn(r, r)
# of the Wishart matrix only the diagonal is used
sampler.sampler.get = lambda: {"z_mvn": z_mvn, "z_dirichlet": z_dirichlet, "z_wishart": torch.diag(z.square().sum(1))}
noise, shares = sampler()
kl, entropy = sampler.get_variational_loss()
(kl + entropy + (shares[:, None, None] * noise).sum(0).square().sum()).backward()
found["monteclora"] = {
    "std": values(std), "weights": values(weights), "z_mvn": values(z_mvn), "z_dirichlet": values(z_dirichlet), "z": values(z),
    "variance": values(sampler.gaussian_var_prior.diag()), "shares": values(shares), "noise": values((shares[:, None, None] * noise).sum(0).T),
    "kl": kl.item(), "entropy": entropy.item(), "dStd": values(sampler.std_prior.grad), "dWeights": values(sampler.expert_weights_prior.grad),
    "keys": sorted(key for key in model.state_dict() if "lora_" in key),
    "loss": model.base_model._get_monteclora_loss().item(),
}
with open(os.path.join(here, "expected.json"), "w") as file:
    json.dump(found, file, separators=(",", ":"))
print(found["monteclora"]["keys"], found["monteclora"]["kl"], found["monteclora"]["loss"])
