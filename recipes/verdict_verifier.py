"""A verifier without any training: a step's score is the verdict that the backbone of `text_backbone.py` would say.

    python recipes/verdict_verifier.py --backbone runs/text/backbone/model --out runs/text/verifier-verdict

It says how much of a trained verifier's choice comes from the made-up solutions alone. The head is linear and not
learned: the word for right against the mean of the others.
"""

import argparse
from pathlib import Path

import torch
from game24_chains import VERDICTS

from arts.lm.load import load_backbone
from arts.verifier.model import VerifierSettings, new_verifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    language_model = load_backbone(arguments.backbone)
    settings = VerifierSettings(tuning="frozen", head="linear")
    verifier = new_verifier(language_model, settings, base=str(arguments.backbone))
    ids = language_model.tokenizer.convert_tokens_to_ids(list(VERDICTS))
    with torch.no_grad():
        words_VH = language_model.model.get_input_embeddings().weight[ids]  # tied to those that are said
        verifier.head[-1].weight.copy_((words_VH[0] - words_VH[1:].mean(0))[None])
    verifier.eval().save(arguments.out)
    print(f"saved {arguments.out}")


if __name__ == "__main__":
    main()
