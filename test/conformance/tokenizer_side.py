"""Hugging Face's side of tokenizer.conformance.ts, in a folder of it.

FOLDER holds texts.json {train, encode, vocabularySize, specialTokens} and ours/, a tokenizer that lorikeet trained. Writes
theirs.json: vocab and merges of the same training by the `tokenizers` package, and ids and texts of ours as transformers reads it.
"""
import json
import os

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def main(root):
    with open(os.path.join(root, "texts.json"), encoding="utf8") as file:
        given = json.load(file)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=given["vocabularySize"],
        min_frequency=2,
        special_tokens=given["specialTokens"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(given["train"], trainer)
    model = json.loads(tokenizer.to_str())["model"]

    read = transformers.AutoTokenizer.from_pretrained(os.path.join(root, "ours"))
    ids = [read(text, add_special_tokens=False)["input_ids"] for text in given["encode"]]
    found = {
        "vocab": model["vocab"],
        "merges": [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]],
        "ids": ids,
        "decoded": [read.decode(each) for each in ids],
        "eos": read.eos_token_id,
        "maximum": read.model_max_length,
    }
    with open(os.path.join(root, "theirs.json"), "w", encoding="utf8") as file:
        json.dump(found, file)
