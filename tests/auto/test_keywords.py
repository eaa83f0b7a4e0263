"""No keyword of transformers' from_pretrained vanishes: each has a verdict, and the verdict holds."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings

import pytest
import torch
import transformers
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedModel
from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto

import uncrate.auto
from uncrate.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from uncrate.auto.keywords import ACCEPTED, HONOURED, KEYWORDS, REFUSED, TRANSLATED
from uncrate.errors import MissingPackage, UsageError

DOCUMENTED = re.compile(r"^\s+(\w+) ?\((?:`|\[`|\*|str|bool)", re.MULTILINE)
POPPED = re.compile(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"")
# Positional parts of the call, and names that stand for "any other keyword".
NOT_KEYWORDS = {"pretrained_model_name_or_path", "model_args", "kwargs", "inputs", "_model_args", "Args"}
# Keys of a configuration, not keywords of the call.
CONFIGURATION = {"_configuration_file", "name_or_path", "num_labels", "model_type", "output_attentions"}


def documented():
    """Every keyword that transformers documents or reads in the from_pretrained of models, configs and tokenizers."""
    model = PreTrainedModel.from_pretrained
    auto = auto_factory._BaseAutoModelClass.from_pretrained
    texts = [
        model.__doc__,
        auto_factory.FROM_PRETRAINED_TORCH_DOCSTRING,
        configuration_auto.AutoConfig.from_pretrained.__doc__,
    ]
    names = {name for text in texts for name in DOCUMENTED.findall(text or "")}
    names |= set(inspect.signature(model).parameters) - {"cls"}
    for function in (model, auto, configuration_auto.AutoConfig.from_pretrained):
        names |= set(POPPED.findall(inspect.getsource(function)))
    hub = re.search(r"hub_kwargs_names = \[(.*?)\]", inspect.getsource(auto), re.DOTALL)
    names |= set(re.findall(r'"(\w+)"', hub[1]))
    gone = re.search(r"for name in \[(.*?)\]", inspect.getsource(model), re.DOTALL)
    names |= set(re.findall(r'"(\w+)"', gone[1]))
    names |= set(POPPED.findall(inspect.getsource(tokenization_auto.AutoTokenizer.from_pretrained)))
    return sorted(names - NOT_KEYWORDS - CONFIGURATION)


def test_the_list_is_read_from_transformers():
    assert {"device_map", "revision", "state_dict", "quantization_config", "low_cpu_mem_usage"} <= set(documented())
    assert len(documented()) > 45


@pytest.mark.parametrize("name", documented())
def test_every_keyword_has_a_verdict_and_a_sentence(name):
    keyword = KEYWORDS[name]
    assert keyword.verdict in (HONOURED, TRANSLATED, ACCEPTED, REFUSED)
    assert len(keyword.says.split()) >= 3


@pytest.mark.parametrize("name", sorted(name for name, keyword in KEYWORDS.items() if keyword.verdict == REFUSED))
def test_a_refused_keyword_is_refused_with_its_sentence(name, golden):
    keyword = KEYWORDS[name]
    load = {"model": AutoModelForCausalLM, "config": AutoConfig, "tokenizer": AutoTokenizer}[keyword.loads[0]]
    with pytest.raises(UsageError, match=re.escape(keyword.says)):
        load.from_pretrained(golden, **{name: "something"})


@pytest.mark.parametrize("name", sorted(name for name, keyword in KEYWORDS.items() if keyword.verdict == ACCEPTED))
def test_an_accepted_keyword_changes_nothing(name, golden):
    keyword = KEYWORDS[name]
    load = AutoConfig if "config" in keyword.loads else AutoTokenizer if "tokenizer" in keyword.loads else None
    if load is not None:
        load.from_pretrained(golden, **{name: True})
    else:
        AutoModelForCausalLM.from_pretrained(golden, **{name: True})


def test_harmless_values_of_refused_keywords_pass(golden):
    harmless = {
        name: keyword.harmless[-1]
        for name, keyword in KEYWORDS.items()
        if keyword.verdict == REFUSED and "model" in keyword.loads
    }
    AutoModelForCausalLM.from_pretrained(golden, **harmless)


def test_all_faults_are_told_at_once(golden):
    with pytest.raises(UsageError, match=r"proxies(?s:.)*state_dict"):
        AutoModelForCausalLM.from_pretrained(golden, proxies={"https": "x"}, state_dict={"a": 1})


@pytest.mark.parametrize(
    ("load", "name", "near"),
    [
        (AutoModelForCausalLM, "torch_dtypes", "torch_dtype"),
        (AutoModelForCausalLM, "devicemap", "device_map"),
        (AutoModelForCausalLM, "use_cach", "use_cache"),
        (AutoConfig, "revison", "revision"),
        (AutoTokenizer, "paddingside", "padding_side"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest(load, name, near, golden):
    with pytest.raises(UsageError, match=f"{name} is not known; {near} is"):
        load.from_pretrained(golden, **{name: 1})


def test_a_keyword_of_another_load_is_told_apart(golden):
    with pytest.raises(UsageError, match="device_map belongs to the load of a model"):
        AutoConfig.from_pretrained(golden, device_map="auto")


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16", "torch.bfloat16"], ids=str)
def test_dtypes(name, value, golden):
    ours = AutoModelForCausalLM.from_pretrained(golden, **{name: value})
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert ours.config.dtype == torch.bfloat16


@pytest.mark.parametrize("given", [{}, {"dtype": "auto"}, {"torch_dtype": "auto"}], ids=str)
@pytest.mark.parametrize("named", ["bfloat16", None])
def test_auto_dtype_is_the_configs_then_the_stored_as_in_transformers(given, named, tmp_path):
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    transformers.LlamaForCausalLM(config).half().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    new = f'"dtype": "{named}"' if named else '"other": 1'
    (tmp_path / "config.json").write_text(text.replace('"dtype": "float16"', new))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **given)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, **given)
    assert ours.dtype == theirs.dtype == (torch.bfloat16 if named else torch.float16)


def test_impossible_dtypes(golden):
    for value in ("int8", torch.int8, "nothing"):
        with pytest.raises(UsageError, match="is not known; choose from"):
            AutoModelForCausalLM.from_pretrained(golden, dtype=value)
    with pytest.raises(UsageError, match="one dtype holds"):
        AutoModelForCausalLM.from_pretrained(golden, dtype={"": "float32"})


def test_attention(golden, one):
    logits = []
    for name in ("eager", "sdpa", None):
        model = AutoModelForCausalLM.from_pretrained(golden, attn_implementation=name)
        assert model.config._attn_implementation == (name or "sdpa")
        logits.append(model(**one).logits)
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[1], logits[2])
    with pytest.raises(UsageError, match="is not one of eager and sdpa"):
        AutoModelForCausalLM.from_pretrained(golden, attn_implementation="flash_attention_2")


def test_generation_config_and_copying(golden):
    wanted = GenerationConfig(max_new_tokens=3)
    model = AutoModelForCausalLM.from_pretrained(golden, generation_config=wanted, disable_mmap=True)
    assert model.generation_config.max_new_tokens == 3
    with pytest.raises(UsageError, match="generation_config is a dict"):
        AutoModelForCausalLM.from_pretrained(golden, generation_config={})


@pytest.mark.parametrize("wanted", [{"load_in_4bit": True}, {"quant_method": "hqq"}], ids=str)
def test_quantization_that_is_not_installed_is_a_sentence(wanted, golden):
    with pytest.raises(MissingPackage, match=r"which is not installed(?s:.)*pip install"):
        AutoModelForCausalLM.from_pretrained(golden, quantization_config=wanted)
    with pytest.raises(UsageError, match="names no quant_method"):
        AutoModelForCausalLM.from_pretrained(golden, quantization_config={})


def test_quantization_objects_are_set_aside_for_the_config(golden):
    with pytest.raises(MissingPackage, match="bitsandbytes"):
        AutoModelForCausalLM.from_pretrained(golden, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert not hasattr(AutoConfig.from_pretrained(golden), "quantization_config")


def test_use_auth_token_is_deprecated_and_clashes(hub, golden):
    hub.commit("owner/name", {"config.json": (golden / "config.json").read_bytes()})
    with pytest.warns(FutureWarning, match="use_auth_token is deprecated"):
        AutoConfig.from_pretrained("owner/name", use_auth_token="hf_x")
    with pytest.raises(UsageError, match="both given"):
        AutoConfig.from_pretrained("owner/name", use_auth_token="hf_x", token="hf_y")


def test_nothing_warns_where_nothing_is_wrong(golden):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoModelForCausalLM.from_pretrained(golden, trust_remote_code=True, low_cpu_mem_usage=True)


def test_without_transformers_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"transformers is not installed(?s:.)*uncrate\[transformers\]"):
        importlib.reload(uncrate.auto)
