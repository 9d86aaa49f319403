"""
Golden changes of LyCORIS, and of PEFT's DoRA: test/goldens/lycoris.safetensors.

    python reference/lycoris_kinds.py

Wants lycoris-lora 4.1 and is not run by make.py. Each kind is made over a linear layer and, where there is such a thing, over a convolution of 3 x 3, with random
factors; `<kind>.<layer>.<tensor>` are the tensors of its file, `weight.<layer>` the layer's own, `merged.<kind>.<layer>` what LyCORIS merges at strength 0.7.

Of DoRA, LyCORIS' multiplier acts on the lengths alone, so that a weaker one would change as much. Programs that read its files go that share of the way from the
weight to what the whole merge is, and so does `merged` here. `peft-dora` is a model of PEFT with these two layers, saved and merged by it, its scale set to 0.7.
"""

import torch
from lycoris.modules import IA3Module, LohaModule, LokrModule, LoConModule, FullModule
from lycoris.modules.glora import GLoRAModule
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict

from files import GOLDENS, write_tensors

STRENGTH = 0.7
RANK, ALPHA = 4, 2.0
KINDS = {
    "locon-tucker": (LoConModule, dict(use_tucker=True), ("conv",)),
    "loha": (LohaModule, {}, ("linear", "conv")),
    "loha-tucker": (LohaModule, dict(use_tucker=True), ("conv",)),
    # Higher ranks would be kept whole.
    "lokr": (LokrModule, dict(factor=4, lora_dim=2), ("linear", "conv")),
    "lokr-both": (LokrModule, dict(factor=4, lora_dim=1, decompose_both=True), ("linear",)),
    "lokr-tucker": (LokrModule, dict(factor=4, lora_dim=2, use_tucker=True), ("conv",)),
    "lokr-full": (LokrModule, dict(factor=4, full_matrix=True), ("linear", "conv")),
    "ia3": (IA3Module, {}, ("linear", "conv")),
    "ia3-input": (IA3Module, dict(train_on_input=True), ("linear", "conv")),
    "full": (FullModule, {}, ("linear", "conv")),
    "dora": (LoConModule, dict(weight_decompose=True), ("linear", "conv")),
    "dora-input": (LoConModule, dict(weight_decompose=True, wd_on_out=False), ("linear", "conv")),
    "dora-tucker": (LoConModule, dict(weight_decompose=True, use_tucker=True), ("conv",)),
    "doha": (LohaModule, dict(weight_decompose=True), ("linear", "conv")),
    "dokr": (LokrModule, dict(weight_decompose=True, wd_on_out=False, factor=4, lora_dim=2), ("linear", "conv")),
    "glora": (GLoRAModule, {}, ("linear", "conv")),
}


def peft_dora(tensors: dict[str, torch.Tensor]) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(24, 32, bias=False)
            self.conv = torch.nn.Conv2d(16, 32, 3, padding=1, bias=False)

    model = Model()
    for name in ("linear", "conv"):
        getattr(model, name).weight.copy_(tensors[f"weight.{name}"])
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, use_dora=True, target_modules=["linear", "conv"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for key, value in get_peft_model_state_dict(model).items():
        layer, rest = key.removeprefix("base_model.model.").split(".", 1)
        tensors[f"peft-dora.{layer}.{rest}"] = value.clone()
        print("peft-dora", key, tuple(value.shape))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", STRENGTH)
    merged = model.merge_and_unload()
    for name in ("linear", "conv"):
        tensors[f"merged.peft-dora.{name}"] = getattr(merged, name).weight.clone()


@torch.no_grad()
def main() -> None:
    torch.manual_seed(11)
    layers = {"linear": torch.nn.Linear(24, 32, bias=False), "conv": torch.nn.Conv2d(16, 32, 3, padding=1, bias=False)}
    tensors = {f"weight.{name}": layer.weight.clone() for name, layer in layers.items()}
    for kind, (module, options, names) in KINDS.items():
        for name in names:
            layer = torch.nn.Linear(24, 32, bias=False) if name == "linear" else torch.nn.Conv2d(16, 32, 3, padding=1, bias=False)
            layer.weight.copy_(tensors[f"weight.{name}"])
            change = module(f"x_{name}", layer, multiplier=1.0, **{"lora_dim": RANK, "alpha": ALPHA, **options})
            for parameter in change.parameters():
                if not any(parameter is own for own in layer.parameters()):
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
            state = change.custom_state_dict() if hasattr(change, "custom_state_dict") else None
            state = state or {key: value for key, value in change.state_dict().items()}
            own = {key: value.float() if value.is_floating_point() else value for key, value in state.items() if not key.startswith("org_module")}
            if module is FullModule:
                # Before it was trained, what it holds is the difference.
                own = {"diff": change.weight}
            if options.get("weight_decompose"):
                # get_merged_weight of LoHa and LoKr scales these twice.
                diff = change.get_weight(layer.weight.shape) if module in (LohaModule, LokrModule) else change.get_diff_weight(shape=layer.weight.shape)[0]
                whole = change.apply_weight_decompose(layer.weight + diff)
                merged = layer.weight + STRENGTH * (whole - layer.weight)
            elif module in (LohaModule, LokrModule):
                # As its forward has it; get_merged_weight of 4.1 scales these a second time.
                merged = layer.weight + change.get_weight(layer.weight.shape) * STRENGTH
            else:
                merged, _ = change.get_merged_weight(multiplier=STRENGTH, shape=layer.weight.shape)
            for key, value in own.items():
                tensors[f"{kind}.{name}.{key}"] = value.clone()
            tensors[f"merged.{kind}.{name}"] = merged.clone()
            print(kind, name, {key: tuple(value.shape) for key, value in own.items()})
    peft_dora(tensors)
    write_tensors(GOLDENS / "lycoris.safetensors", tensors)


if __name__ == "__main__":
    main()
