"""Our ChatGLM code as three files that stock transformers runs: configuration, modeling, tokenization."""

from __future__ import annotations

from collections.abc import Mapping

from uncrate import __version__
from uncrate.export.gather import FilePlan, generate
from uncrate.export.inline import Name

_MODELS = "uncrate.models.chatglm"
CONFIGURATION, MODELING, TOKENIZATION = "configuration_chatglm", "modeling_chatglm", "tokenization_chatglm"

_STANDINS: Mapping[Name, Name] = {
    ("uncrate.checkpoint.jsonfile", name): ("uncrate.export.standins", name) for name in ("parse_object", "thaw")
}
# A word for names that two modules share; the transformers classes keep theirs.
_WORDS = {
    "uncrate.errors": "Uncrate",
    "uncrate.export.standins": "Plain",
    "uncrate.families.chatglm": "Typed",
    "uncrate.families.fields": "Fields",
    f"{_MODELS}.expand": "Expand",
    f"{_MODELS}.hf_base": "Base",
    f"{_MODELS}.hf_chat": "Chat",
    f"{_MODELS}.hf_config": "Hf",
    f"{_MODELS}.hf_model": "Hf",
    f"{_MODELS}.hf_tokenizer": "Hf",
    f"{_MODELS}.image": "Image",
    f"{_MODELS}.language": "Language",
    f"{_MODELS}.messages": "Messages",
    f"{_MODELS}.model": "Native",
    f"{_MODELS}.prompt": "Prompt",
    f"{_MODELS}.tokenizer": "Native",
    f"{_MODELS}.tokenizer_sp": "Sp",
    f"{_MODELS}.tokens": "Base",
    f"{_MODELS}.tools": "Tools",
    f"{_MODELS}.vision": "Vision",
    f"{_MODELS}.vocabulary": "Vocabulary",
}
# sentencepiece is for ChatGLM2's and ChatGLM3's tokenizer alone; what tiktoken does, tokenizers can do, slower to open.
_OPTIONAL: Mapping[str, Name | None] = {
    "sentencepiece": None,
    "tiktoken": ("uncrate.export.standins", "Tiktoken"),
}
_HEADS = {"uncrate.errors": "Errors: what is wrong, where, why, and what to do next."}


def code_files(tokenizer_class: str = "ChatGLM4Tokenizer") -> dict[str, str]:
    """Return file name to text. `tokenizer_class` is what the tokenizer is called there, as the checkpoint names it."""
    said = f"Written by uncrate {__version__} from its native sources; Apache-2.0."
    configuration = generate(
        FilePlan(
            doc=f"The configuration of ChatGLM2, ChatGLM3, GLM-4 and GLM-4V.\n\n{said}\n",
            roots=((f"{_MODELS}.hf_config", "ChatGLMConfig"),),
            heads=_HEADS,
        ),
        _STANDINS,
        _WORDS,
    )
    modeling = generate(
        FilePlan(
            doc=f"ChatGLM2, ChatGLM3, GLM-4 and GLM-4V for transformers.\n\n{said}\n",
            roots=tuple(
                (f"{_MODELS}.hf_model", name)
                for name in ("ChatGLMModel", "ChatGLMForConditionalGeneration", "ChatGLMForSequenceClassification")
            ),
            beside={CONFIGURATION: configuration.names},
            heads=_HEADS,
        ),
        _STANDINS,
        _WORDS,
    )
    root = (f"{_MODELS}.hf_tokenizer", "ChatGLMTokenizer")
    tokenization = generate(
        FilePlan(
            doc=f"The tokenizers of ChatGLM2, ChatGLM3, GLM-4 and GLM-4V for transformers.\n\n{said}\n",
            roots=(root,),
            called={root: tokenizer_class},
            optional=_OPTIONAL,
            heads=_HEADS,
        ),
        _STANDINS,
        _WORDS,
    )
    return {
        f"{CONFIGURATION}.py": configuration.text,
        f"{MODELING}.py": modeling.text,
        f"{TOKENIZATION}.py": tokenization.text,
    }
