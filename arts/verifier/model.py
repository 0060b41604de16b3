"""The verifier network: backbone, LoRA or full weights, and a head on the last token of each step (paper, method 4).

It sees a tree as one packed sequence and returns log F(s) for every node. A saved verifier is safetensors and JSON:

    verifier.json            settings, the objective and scale of its score, hash of the base weights
    head.safetensors         the head
    adapter/                 LoRA weights (the base stays where it is), or nothing for a frozen backbone, or
    backbone/                all weights of a fully trained backbone, and its tokenizer

Shapes: T tokens and N nodes of all trees of a batch, H hidden, K outputs of the head.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from arts.files import write_atomically
from arts.lm.load import LanguageModel, load_backbone
from arts.lm.packing import PackedBatch
from arts.lm.tree_attention import hidden_states, use_tree_attention
from arts.lm.weights import weight_files, weights_fingerprint
from arts.tree import ReasoningTree
from arts.verifier.checkpoint import saving_to

FORMAT = 1
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, kw_only=True)
class VerifierSettings:
    """Shape of a verifier. The defaults are the paper's."""

    tuning: str = "lora"
    """`lora`; `full`, for backbones of a few million weights; or `frozen`: only the head is trained, on hidden states
    that are computed once."""
    lora_rank: int = 16
    lora_alpha: int = 32
    dropout: float = 0.1
    "in the adapters and in the head"
    num_outputs: int = 1
    "of the head, K; the first is the score. An objective says how many it needs"
    head: str = "mlp"
    "`mlp`: two layers, the paper's; `linear`: one without a bias, which servers of models know too"

    def __post_init__(self) -> None:
        if self.num_outputs < 1:
            raise ValueError(f"num_outputs is {self.num_outputs}; the head needs at least one")
        if self.tuning not in ("lora", "full", "frozen"):
            raise ValueError(f"tuning is {self.tuning!r}; allowed are 'lora', 'full' and 'frozen'")
        if self.head not in ("mlp", "linear"):
            raise ValueError(f"head is {self.head!r}; allowed are 'mlp' and 'linear'")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must lie in [0, 1)")


class FlowVerifier(nn.Module):
    """score(s) = head(hidden state at the last token of step s); log F(s) for a flow objective.

    Args:
        language_model: the backbone, from `load_backbone`; with LoRA its own weights stay frozen.
        card: what is said of this verifier in `verifier.json` (objective, scale, training), besides its settings.
    """

    def __init__(
        self, language_model: LanguageModel, settings: VerifierSettings, card: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.settings = settings
        self.card = card or {}
        use_tree_attention(language_model.model)
        self.backbone = (
            _with_lora(language_model.model, settings) if settings.tuning == "lora" else language_model.model
        )
        if settings.tuning == "frozen":
            self.backbone.requires_grad_(False)
        hidden = language_model.model.config.hidden_size
        self.head = _head(hidden, settings)
        self.head.to(language_model.device)

    @property
    def max_positions(self) -> int:
        return int(getattr(self.language_model.model.config, "max_position_embeddings", 1 << 30))

    def train(self, mode: bool = True) -> "FlowVerifier":
        """A frozen backbone computes the same in training as afterwards."""
        super().train(mode)
        if self.settings.tuning == "frozen":
            self.backbone.eval()
        return self

    def forward(self, batch: PackedBatch | torch.Tensor) -> torch.Tensor:
        """The head's output for every node [N, K]; the objective says what it means.

        Args:
            batch: packed trees, or the `step_ends` of their nodes where these are known.
        """
        return self.read(batch if isinstance(batch, torch.Tensor) else self.step_ends(batch))

    def step_ends(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden state at the last token of every node [N, H]."""
        hidden_TH = hidden_states(self.backbone, batch)
        return hidden_TH[batch.node_end_N.to(hidden_TH.device)]

    def read(self, step_end_NH: torch.Tensor) -> torch.Tensor:
        """The head's output [N, K], computed in the precision of its weights whatever the backbone's is."""
        with torch.autocast(step_end_NH.device.type, enabled=False):
            output_NK: torch.Tensor = self.head(step_end_NH.to(next(self.head.parameters()).dtype))
        return output_NK

    def checkpoint_activations(self) -> None:
        """From now on keep in training what goes into each layer only, and compute the rest again on the way back."""
        model = self.language_model.model
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})  # its name before transformers 5.20

    def node_token_ids(self, tree: ReasoningTree) -> list[Sequence[int]]:
        """Ids of every node; the root's are the prompt."""
        return self.language_model.text.node_ids(tree)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the verifier; `verifier.json` comes last, so a folder that has it is whole.

        Args:
            weights: a state dict to write instead of the verifier's own, where that is in shards.

        Raises:
            ValueError: the disk is full, and the like.
        """
        with saving_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            base = self.card.get("base", Path(self.language_model.folder).absolute().name)
            weights = self.state_dict() if weights is None else weights
            save_file(_below(weights, "head."), folder / "head.safetensors")
            if self.settings.tuning == "lora":
                # peft would write where the base lies on this machine, in its settings and in an empty model card.
                self.backbone.peft_config["default"].base_model_name_or_path = base
                adapter = {"state_dict": _below(weights, "backbone."), "save_embedding_layers": False}
                self.backbone.save_pretrained(folder / "adapter", **adapter)
                (folder / "adapter" / "README.md").unlink(missing_ok=True)
            elif self.settings.tuning == "full":
                self.backbone.save_pretrained(folder / "backbone", state_dict=_below(weights, "backbone."))
                self.language_model.tokenizer.save_pretrained(folder / "backbone")
            card = {
                "format": FORMAT,
                **self.card,
                "settings": asdict(self.settings),
                "base": base,
                "base_fingerprint": self.card.get("base_fingerprint", self.language_model.fingerprint),
            }
            write_atomically(folder / "verifier.json", json.dumps(card, indent=2) + "\n")


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): weights[name].contiguous() for name in weights if name.startswith(prefix)}


def _head(hidden: int, settings: VerifierSettings) -> nn.Sequential:
    if settings.head == "linear":
        return nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(hidden, settings.num_outputs, bias=False))
    return nn.Sequential(
        nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(hidden, settings.num_outputs)
    )


def new_verifier(
    language_model: LanguageModel, settings: VerifierSettings, *, base: str, seed: int = 0
) -> FlowVerifier:
    """An untrained verifier. `base` names the backbone in its card; the seed decides its head and adapters.

    Of a folder only the last part is kept: a card does not tell where things lie on the machine that wrote it.
    """
    torch.manual_seed(seed)
    return FlowVerifier(language_model, settings, {"base": Path(base).absolute().name})


def _with_lora(model: Any, settings: VerifierSettings) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model  # slow to import, and only needed here

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.dropout,
        target_modules=[name for name in LORA_TARGETS if name in names] or "all-linear",
        task_type=TaskType.FEATURE_EXTRACTION,
    )
    return get_peft_model(model, config)


def load_verifier(folder: str | Path, *, base: str | Path | None = None, device: str = "cpu") -> FlowVerifier:
    """Load a saved verifier.

    Args:
        base: folder of the base model of a verifier with LoRA or a frozen backbone. A fully trained one carries its
            weights and needs none; when one is given all the same, it must be the model it was trained from.

    Raises:
        ValueError: the folder holds no verifier, a damaged one, one of another version, or the base is another model.
    """
    path = Path(folder)
    if not (path / "verifier.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds no verifier (no verifier.json); train one with `arts train DIR --out {folder}`"
        )
    try:
        card = json.loads((path / "verifier.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / 'verifier.json'} is damaged: {error}") from error
    if card.get("format") != FORMAT:
        raise ValueError(
            f"{path / 'verifier.json'} has format version {card.get('format')!r}; this version of arts reads {FORMAT}"
        )
    settings = VerifierSettings(**card["settings"])
    if settings.tuning != "full" and base is None:
        kind = "an adapter" if settings.tuning == "lora" else "a head"
        raise ValueError(
            f"verifier {str(folder)!r} is {kind} of {card['base']!r}; name that model's folder with --backbone"
        )
    if base is not None:
        check_base(card, base)
    try:
        language_model = load_backbone(path / "backbone" if settings.tuning == "full" else str(base), device=device)
        verifier = FlowVerifier(language_model, settings, card)
        if settings.tuning == "lora":
            _load_adapter(verifier, path / "adapter")
        verifier.head.load_state_dict(load_file(path / "head.safetensors", device=device))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights of verifier {str(folder)!r} are damaged or incomplete: {error}") from error
    return verifier.eval()


def _load_adapter(verifier: FlowVerifier, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(verifier.backbone, load_file(folder / "adapter_model.safetensors"))


def check_base(card: dict[str, Any], base: str | Path) -> None:
    """Refuse a base model whose weights are not those the verifier was trained on."""
    if not weight_files(Path(base)):
        raise ValueError(f"base model {str(base)!r} is not a folder with *.safetensors weights")
    found = weights_fingerprint(base)
    if found != card["base_fingerprint"]:
        raise ValueError(
            f"the verifier was trained on {card['base']!r} with weights {card['base_fingerprint']}; "
            f"{str(base)!r} has weights {found}. Give the model it was trained on, or train a verifier for this one"
        )
