"""How near answers are to what was wanted: exact match, BLEU, ROUGE-L; and the old script's numbers as an extra."""

from __future__ import annotations

from collections.abc import Sequence

from uncrate.errors import MissingPackage

OLD_NAMES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


def measure(predictions: Sequence[str], wanted: Sequence[str], *, old: bool = False) -> dict[str, float]:
    """Return `exact`, `bleu` and `rouge_l` in percent; `old` adds the numbers of GLM-4's script (`zh-metrics`).

    BLEU is sacrebleu's, over the corpus, Chinese by character. ROUGE-L is the F-measure over the same tokens, averaged.
    """
    pairs = [(said.strip(), right.strip()) for said, right in zip(predictions, wanted, strict=True)]
    if not pairs:
        return {}
    out = {"exact": 100.0 * sum(said == right for said, right in pairs) / len(pairs)}
    out |= _bleu_and_rouge(pairs)
    if old:
        out |= old_numbers(predictions, wanted)
    return {name: round(value, 4) for name, value in out.items()}


def _bleu_and_rouge(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh
    except ImportError as error:
        raise MissingPackage("BLEU needs the package sacrebleu", next="pip install 'uncrate[train]'") from error
    said, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    bleu = BLEU(tokenize="zh", effective_order=True).corpus_score(said, [right]).score
    tokens = TokenizerZh()
    scores = [rouge_l(tokens(ours).split(), tokens(theirs).split()) for ours, theirs in pairs]
    return {"bleu": bleu, "rouge_l": 100.0 * sum(scores) / len(scores)}


def rouge_l(said: Sequence[str], right: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence of two token lists, 0 to 1 (Lin, 2004)."""
    if not said or not right:
        return float(not said and not right)
    row = [0] * (len(right) + 1)
    for ours in said:
        before = 0
        for place, theirs in enumerate(right, 1):
            here = row[place]
            row[place] = before + 1 if ours == theirs else max(here, row[place - 1])
            before = here
    return 2 * row[-1] / (len(said) + len(right))


def old_numbers(predictions: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return rouge-1, rouge-2, rouge-l and bleu-4 in percent as GLM-4's script did: jieba's words, averaged."""
    try:
        import jieba
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge_chinese import Rouge
    except ImportError as error:
        raise MissingPackage(
            f"the old script's numbers need the package {error.name}", next="pip install 'uncrate[zh-metrics]'"
        ) from error
    jieba.setLogLevel(30)  # it reports its dictionary on stderr as if that were news
    sums = dict.fromkeys(OLD_NAMES, 0.0)
    rouge, smooth = Rouge(), SmoothingFunction().method3
    for said, right in zip(predictions, wanted, strict=True):
        ours, theirs = list(jieba.cut(said.strip())), list(jieba.cut(right.strip()))
        if any(word.strip() for word in ours) and any(word.strip() for word in theirs):
            scores = rouge.get_scores(" ".join(ours), " ".join(theirs))[0]
            for name in OLD_NAMES[:3]:
                sums[name] += scores[name]["f"]
        if said.strip() and right.strip():
            sums["bleu-4"] += sentence_bleu([list(right.strip())], list(said.strip()), smoothing_function=smooth)
    return {name: 100.0 * value / max(1, len(predictions)) for name, value in sums.items()}
