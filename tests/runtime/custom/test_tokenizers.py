"""Tokenizers of 2023 on today's base classes: same ids, same padding, same text back."""

# ruff: noqa: E501

from __future__ import annotations

import json
import pickle

import pytest
import torch
from runtime.custom.closures import closure

from uncrate.runtime.custom_code import load_class

LETTERS = " abcdefghijklmnopqrstuvwxyz.,"
SLOW = '''
    import json
    import os
    from typing import Dict, List, Optional, Union

    from transformers import PreTrainedTokenizer
    from transformers.tokenization_utils import AddedToken, _is_control
    from transformers.tokenization_utils_base import BatchEncoding, EncodedInput
    from transformers.utils import PaddingStrategy, logging

    logger = logging.get_logger(__name__)
    VOCAB_FILES_NAMES = {"vocab_file": "letters.json"}
    PRETRAINED_VOCAB_FILES_MAP = {}


    class Letters:
        """The real tokenizer, opened late."""

        def __init__(self, path):
            with open(path, encoding="utf-8") as file:
                self.ids = json.load(file)
            self.letters = {number: letter for letter, number in self.ids.items()}


    class LettersTokenizer(PreTrainedTokenizer):
        vocab_files_names = VOCAB_FILES_NAMES
        model_input_names = ["input_ids", "attention_mask", "position_ids"]

        def __init__(
            self, vocab_file, do_lower_case=False, bos_token="<sop>", gmask_token="[gMASK]", padding_side="left",
            add_bos_token=True, **kwargs
        ):
            self.name = "LettersTokenizer"
            self.do_lower_case = do_lower_case
            self.gmask_token = gmask_token
            self.add_bos_token = add_bos_token
            super().__init__(bos_token=bos_token, padding_side=padding_side, gmask_token=gmask_token, **kwargs)
            self.vocab_file = vocab_file
            self.tokenizer = Letters(vocab_file)

        @property
        def unk_token(self) -> str:
            return "<unk>"

        @property
        def pad_token(self) -> str:
            return "<pad>"

        @property
        def pad_token_id(self):
            return self.tokenizer.ids["<pad>"]

        @property
        def vocab_size(self):
            return len(self.tokenizer.ids)

        def get_vocab(self):
            vocab = {self._convert_id_to_token(number): number for number in range(self.vocab_size)}
            vocab.update(self.added_tokens_encoder)
            return vocab

        def _tokenize(self, text, **kwargs):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.tokenizer.ids.get(token, self.tokenizer.ids["<unk>"])

        def _convert_id_to_token(self, index):
            return self.tokenizer.letters.get(index, "<unk>")

        def convert_tokens_to_string(self, tokens: List[str]) -> str:
            return "".join(tokens)

        def save_vocabulary(self, save_directory, filename_prefix=None):
            path = os.path.join(save_directory, VOCAB_FILES_NAMES["vocab_file"])
            with open(path, "w", encoding="utf-8") as file:
                json.dump(self.tokenizer.ids, file)
            return (path,)

        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
            prefix = [self.tokenizer.ids[self.gmask_token], self.bos_token_id] if self.add_bos_token else []
            token_ids_0 = prefix + token_ids_0
            return token_ids_0 + (token_ids_1 or [])

        def build_chat_input(self, queries):
            ids = [self.build_inputs_with_special_tokens(self.encode(query, add_special_tokens=False)) for query in queries]
            return self.batch_encode_plus(ids, return_tensors="pt", is_split_into_words=True, padding=True, add_special_tokens=False)

        def _pad(
            self,
            encoded_inputs: Union[Dict[str, EncodedInput], BatchEncoding],
            max_length: Optional[int] = None,
            padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
            pad_to_multiple_of: Optional[int] = None,
            return_attention_mask: Optional[bool] = None,
        ) -> dict:
            required = encoded_inputs["input_ids"]
            length = len(required)
            if padding_strategy == PaddingStrategy.LONGEST:
                max_length = length
            short = padding_strategy != PaddingStrategy.DO_NOT_PAD and length != max_length
            encoded_inputs.setdefault("attention_mask", [1] * length)
            encoded_inputs.setdefault("position_ids", list(range(length)))
            if short:
                difference = max_length - length
                for name, fill in (("attention_mask", 0), ("position_ids", 0), ("input_ids", self.pad_token_id)):
                    padding = [fill] * difference
                    held = encoded_inputs[name]
                    encoded_inputs[name] = padding + held if self.padding_side == "left" else held + padding
            return encoded_inputs
'''
FAST = """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS, Converter, SentencePieceExtractor
    from transformers.tokenization_utils_fast import PreTrainedTokenizerFast

    from .tokenization_letters import LettersTokenizer


    class LettersConverter(Converter):
        def converted(self):
            made = Tokenizer(WordLevel(self.original_tokenizer.tokenizer.ids, unk_token="<unk>"))
            made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
            made.decoder = decoders.Fuse()
            return made


    SLOW_TO_FAST_CONVERTERS["LettersTokenizer"] = LettersConverter


    class LettersTokenizerFast(PreTrainedTokenizerFast):
        vocab_files_names = {"vocab_file": "letters.json", "tokenizer_file": "tokenizer.json"}
        slow_tokenizer_class = LettersTokenizer
        model_input_names = ["input_ids", "attention_mask"]

        def __init__(self, vocab_file=None, tokenizer_file=None, bos_token="<sop>", add_bos_token=True, **kwargs):
            super().__init__(vocab_file=vocab_file, tokenizer_file=tokenizer_file, bos_token=bos_token, **kwargs)
            self._add_bos_token = add_bos_token
            self.update_post_processor()

        def update_post_processor(self):
            start = f"{self.bos_token}:0 " if self._add_bos_token else ""
            special = [(self.bos_token, self.bos_token_id)] if self._add_bos_token else []
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{start}$A:0", pair=f"{start}$A:0 $B:1", special_tokens=special
            )
"""
FILES = closure(tokenization_letters=SLOW, tokenization_letters_fast=FAST)


@pytest.fixture
def folder(tmp_path):
    letters = ["<unk>", "<pad>", "<eop>", "[gMASK]", "<sop>", *LETTERS]
    (tmp_path / "letters.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    config = {"auto_map": {"AutoTokenizer": ["tokenization_letters.LettersTokenizer", None]}, "eos_token": "<eop>"}
    config |= {"additional_special_tokens": ["<extra>"], "gmask_token": "[gMASK]", "remove_space": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def change(folder, **values):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def slow(folder):
    return load_class(*FILES, "tokenization_letters.LettersTokenizer").from_pretrained(str(folder))


def test_ids_and_text(slow):
    assert slow.encode("ab") == [3, 4, 6, 7]
    assert slow.encode("ab", add_special_tokens=False) == [6, 7]
    assert slow("ab")["position_ids"] == [0, 1, 2, 3]
    assert slow.decode([6, 7, 2]) == "ab<eop>" and slow.decode([6, 7, 2], skip_special_tokens=True) == "ab"
    assert slow.tokenize("a<eop>b<extra>") == ["a", "<eop>", "b", "<extra>"]
    assert slow.encode("A", add_special_tokens=False) == [0]


def test_special_tokens_are_those_of_4x(slow):
    assert slow.additional_special_tokens == ["<extra>"]
    assert slow.additional_special_tokens_ids == [len(LETTERS) + 5]
    # A key that ends in "_token" is an attribute of the class, no special token: its text stays text.
    assert slow.gmask_token == "[gMASK]" and "[gMASK]" not in slow.all_special_tokens
    assert slow.tokenize("[gMASK]") == list("[gMASK]")
    assert (slow.eos_token_id, slow.pad_token_id, slow._eos_token) == (2, 1, "<eop>")
    assert slow.special_tokens_map_extended["additional_special_tokens"]
    slow.add_special_tokens({"additional_special_tokens": ["<more>"]})
    assert slow.additional_special_tokens == ["<more>"] and len(slow) == len(LETTERS) + 7


def test_batches(slow):
    both = slow(["ab", "c"], padding=True, return_tensors="pt")
    assert both["input_ids"].tolist() == [[3, 4, 6, 7], [1, 3, 4, 8]]
    assert both["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    same = slow.batch_encode_plus(["ab", "c"], padding=True, return_tensors="pt")
    assert all(torch.equal(same[name], both[name]) for name in both)
    right = slow.pad({"input_ids": [[6, 7], [8]]}, padding_side="right")
    assert right["input_ids"] == [[6, 7], [8, 1]] and slow.padding_side == "left"
    assert slow.build_chat_input(["ab", "c"])["input_ids"].tolist() == both["input_ids"].tolist()
    assert slow.batch_encode_plus([[6], [7, 8]], is_split_into_words=True, add_special_tokens=False, padding=True)[
        "input_ids"
    ] == [
        [1, 6],
        [7, 8],
    ]
    assert slow.encode_plus("ab")["input_ids"] == [3, 4, 6, 7]
    assert slow.batch_encode_plus([("a", "b"), ("c", "d")])["input_ids"] == [[3, 4, 6, 7], [3, 4, 8, 9]]
    assert slow.prepare_for_model([6, 7])["input_ids"] == [3, 4, 6, 7]


def test_values_of_tokenizer_config_reach_the_constructor(folder):
    change(folder, add_bos_token=False, do_lower_case=True, padding_side="right", gmask_token="<sop>")
    slow = load_class(*FILES, "tokenization_letters.LettersTokenizer").from_pretrained(str(folder))
    assert slow.encode("AB<eop>") == [6, 7, 2]
    assert slow.padding_side == "right" and slow.gmask_token == "<sop>"


def test_a_path_in_tokenizer_config_is_not_followed(folder, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    change(folder, vocab_file=str(outside))
    slow = load_class(*FILES, "tokenization_letters.LettersTokenizer").from_pretrained(str(folder))
    assert slow.vocab_file == str(folder / "letters.json")


def test_added_tokens_of_old_files(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 40}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<eop>", "lstrip": True}}))
    slow = load_class(*FILES, "tokenization_letters.LettersTokenizer").from_pretrained(str(folder))
    assert slow.encode("a<new>", add_special_tokens=False) == [6, 40]
    assert slow.encode("a <eop>", add_special_tokens=False) == [6, 2]


def test_pickle_and_save(slow, folder, tmp_path):
    again = pickle.loads(pickle.dumps(slow))
    assert again.encode("ab.<extra>") == slow.encode("ab.<extra>")
    saved = tmp_path / "saved"
    slow.save_pretrained(saved)
    reopened = type(slow).from_pretrained(str(saved))
    assert reopened.encode("ab.<extra>") == slow.encode("ab.<extra>")


def test_fast_comes_from_the_checkpoints_own_converter(folder, slow):
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS

    fast = load_class(*FILES, "tokenization_letters_fast.LettersTokenizerFast").from_pretrained(str(folder))
    assert "LettersTokenizer" not in SLOW_TO_FAST_CONVERTERS
    assert fast.encode("ab c") == [4, 6, 7, 5, 8]
    assert fast.encode("ab c", add_special_tokens=False) == slow.encode("ab c", add_special_tokens=False)
    assert fast.batch_encode_plus(["a", "b"])["input_ids"] == [[4, 6], [4, 7]]
    assert fast.additional_special_tokens == ["<extra>"]
    change(folder, add_bos_token=False)
    bare = load_class(*FILES, "tokenization_letters_fast.LettersTokenizerFast").from_pretrained(str(folder))
    assert bare.encode("ab") == [6, 7]


def test_fast_believes_its_tokenizer_json(folder):
    fast_class = load_class(*FILES, "tokenization_letters_fast.LettersTokenizerFast")
    fast = fast_class.from_pretrained(str(folder))
    from tokenizers import normalizers

    fast._tokenizer.normalizer = normalizers.Replace("b", "c")
    fast._tokenizer.save(str(folder / "tokenizer.json"))
    change(folder, add_bos_token=False)
    assert fast_class.from_pretrained(str(folder)).encode("ab") == [6, 8]
