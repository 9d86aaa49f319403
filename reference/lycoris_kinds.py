"""
Golden changes of LyCORIS: test/goldens/lycoris.safetensors.

    python reference/lycoris_kinds.py

Wants lycoris-lora 4.1 and is not run by make.py. Each kind is made over a linear layer and, where there is such a thing, over a convolution of 3 x 3, with random
factors; `<kind>.<layer>.<tensor>` are the tensors of its file, `weight.<layer>` the layer's own, `merged.<kind>.<layer>` what LyCORIS merges at strength 0.7.
"""

import torch
from lycoris.modules import IA3Module, LohaModule, LokrModule, LoConModule, FullModule

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
}


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
            if module in (LohaModule, LokrModule):
                # As its forward has it; get_merged_weight of 4.1 scales these a second time.
                merged = layer.weight + change.get_weight(layer.weight.shape) * STRENGTH
            else:
                merged, _ = change.get_merged_weight(multiplier=STRENGTH, shape=layer.weight.shape)
            for key, value in own.items():
                tensors[f"{kind}.{name}.{key}"] = value.clone()
            tensors[f"merged.{kind}.{name}"] = merged.clone()
            print(kind, name, {key: tuple(value.shape) for key, value in own.items()})
    write_tensors(GOLDENS / "lycoris.safetensors", tensors)


if __name__ == "__main__":
    main()
