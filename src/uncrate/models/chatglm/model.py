"""ChatGLM models for answers and for classes: tokens and pictures in, logits out.

Axes in names: B batch, T tokens, E positions after pictures are expanded, S key positions, C hidden size, V words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uncrate.errors import PictureError, UsageError
from uncrate.families.chatglm import ChatGLMConfig
from uncrate.models.chatglm.expand import expand
from uncrate.models.chatglm.language import Embedding, GLMTransformer, KeyValueStore, PrefixEncoder, rotary_table
from uncrate.models.chatglm.vision import VisionTower

IGNORED = -100
LOSS_CHUNK = 1024


class Cache(KeyValueStore, Protocol):
    """A key-value store that also remembers which of its key positions are real."""

    def extend(self, mask_BE: Tensor | None, batch: int, queries: int) -> tuple[Tensor | None, int]: ...


@dataclass(frozen=True)
class Embedded:
    """Positions ready for the stack: embeddings [B, E, C], position ids [B, E], mask [B, E] (1 real), labels [B, E]
    or None.
    """

    x: Tensor
    position_ids: Tensor
    mask: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: logits [B, E or kept, V] (None when not asked for), mean loss, hidden states [B, E,
    C] after the final norm.
    """

    logits: Tensor | None
    loss: Tensor | None
    hidden: Tensor


def attention_pattern(
    key_mask_BS: Tensor | None, queries: int, keys: int, prefix: int, device: torch.device
) -> Tensor | None:
    """Return which keys each query may see, bool [B or 1, 1, T, P + S]; None where plain causal or "all" says the same.

    Queries are the last `queries` of the `keys` positions. `prefix` trained positions before them are always seen.
    A padded query sees itself, so no row is empty (softmax of an empty row is NaN, and NaN spreads).
    """
    if key_mask_BS is None and not prefix and (queries == 1 or queries == keys):
        return None
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    seen = (key <= query)[None]
    if key_mask_BS is not None:
        seen = seen & (key_mask_BS.bool()[:, None, :] | (key == query)[None])
    if prefix:
        seen = F.pad(seen, (prefix, 0), value=True)
    return seen[:, None]


def check_shapes(input_ids: Tensor, **others: Tensor | None) -> None:
    """Raise UsageError where input_ids are not [B, T] or one of the others is of another shape."""
    shape = list(input_ids.shape)
    if len(shape) != 2:
        raise UsageError(f"input_ids should be [B, T], they are {shape}", next="put a single row in a batch: ids[None]")
    for name, given in others.items():
        if given is not None and list(given.shape) != shape:
            raise UsageError(f"{name} should be {shape} as input_ids are, not {list(given.shape)}")


class ChatGLMModel(nn.Module):
    """Everything the checkpoint keeps under `transformer.`: embedding, decoder, output layer, vision tower, prefix."""

    def __init__(self, config: ChatGLMConfig, head: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = GLMTransformer(config)
        if head:
            self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=config.add_bias_linear)
        if config.pre_seq_len is not None:
            self.prefix_encoder = PrefixEncoder(config)
        if config.vision is not None:
            self.vision = VisionTower(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.word_embeddings.weight.dtype

    def embed(
        self,
        input_ids: Tensor,
        *,
        images: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Embedded:
        """Look words up and put each picture's vectors in the place of its three tokens; shapes as in `forward`.

        Raises UsageError for shapes that do not go together and ids that are no words, PictureError as `forward`.
        """
        check_shapes(input_ids, attention_mask=attention_mask, labels=labels)
        if position_ids is None:
            if attention_mask is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
            else:
                position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        x = self.look_up(input_ids)
        if images is None or not len(images):
            return Embedded(x, position_ids, attention_mask, labels)
        boi, eoi = self.config.boi_token_id, self.config.eoi_token_id
        if self.config.vision is None or boi is None or eoi is None:
            raise PictureError("this model takes no pictures", next="leave images out, or open a GLM-4V checkpoint")
        vectors = self.vision(images.to(device=x.device, dtype=self.dtype))
        places = expand(input_ids, boi, eoi, len(images), vectors.shape[1])
        words = x.gather(1, places.source[..., None].expand(-1, -1, x.shape[-1]))
        seen = vectors.to(x).flatten(0, 1)[places.vision.clamp(min=0)]
        x = torch.where((places.vision >= 0)[..., None], seen, words)
        ones = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if labels is not None:
            labels = places.gather(labels, IGNORED).masked_fill(places.inside, IGNORED)
        return Embedded(x, places.gather(position_ids, 0), places.gather(ones, 0), labels)

    def look_up(self, input_ids: Tensor) -> Tensor:
        """Return the words' embeddings [B, T, C]."""
        try:
            return self.embedding(input_ids)
        except IndexError as error:  # told by the CPU alone: a check of our own would make a GPU wait
            words, lowest, highest = self.config.padded_vocab_size, int(input_ids.min()), int(input_ids.max())
            raise UsageError(
                f"the ids in input_ids go from {lowest} to {highest}, the model has the words 0 to {words - 1}",
                next="encode text with the checkpoint's own tokenizer; -100 is for labels alone",
            ) from error

    def run(
        self,
        embedded: Embedded,
        pattern: Tensor | None,
        cache: KeyValueStore | None,
        collected: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the decoder over embedded positions; returns hidden states [B, E, C] after the final norm.

        `collected` receives the hidden states before each block and before the final norm.
        """
        table = rotary_table(self.config, embedded.position_ids, self.dtype)
        prefixes = self.prefix_encoder(len(embedded.x)) if self.config.pre_seq_len is not None else None
        return self.encoder(embedded.x, table, pattern, cache, prefixes, collected)

    def forward(self, embedded: Embedded, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, E, C]; with a cache, earlier positions are seen as well and these are added to it."""
        queries = embedded.x.shape[1]
        mask = embedded.mask
        if mask is not None and bool(mask.all()):
            mask = None
        keys = queries
        if cache is not None:
            mask, keys = cache.extend(mask, len(embedded.x), queries)
        pattern = attention_pattern(mask, queries, keys, self.config.pre_seq_len or 0, embedded.x.device)
        return self.run(embedded, pattern, cache)


def token_loss(hidden_BEC: Tensor, labels_BE: Tensor, head: nn.Linear) -> Tensor:
    """Mean cross-entropy of the next token over labelled positions, a float32 scalar.

    Only positions whose label counts get logits, a chunk at a time and again in backward: the whole [B, E, V] in
    float32 would be the memory peak of training.
    """
    targets = labels_BE[:, 1:].to(hidden_BEC.device)
    counted = targets != IGNORED
    hidden, targets = hidden_BEC[:, :-1][counted], targets[counted]

    def chunk_loss(part: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(head(part).float(), target, reduction="sum")

    total = hidden.sum() * 0.0 if len(hidden) == 0 else hidden.new_zeros((), dtype=torch.float32)
    for part, target in zip(hidden.split(LOSS_CHUNK), targets.split(LOSS_CHUNK), strict=True):
        if torch.is_grad_enabled() and len(hidden) > LOSS_CHUNK:
            total = total + checkpoint(chunk_loss, part, target, use_reentrant=False)
        elif len(part):
            total = total + chunk_loss(part, target)
    return total / max(len(hidden), 1)


class ChatGLMForConditionalGeneration(nn.Module):
    """The model that answers: ChatGLM2, ChatGLM3, GLM-4 (text) and GLM-4V (text and one picture a row)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = ChatGLMModel(config)

    def forward(
        self,
        input_ids: Tensor,
        images: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        cache: Cache | None = None,
        logits_to_keep: int = 0,
        return_logits: bool = True,
    ) -> Output:
        """Return logits for `input_ids` [B, T] int64.

        images: [N, 3, S, S], one for each row that holds the begin-of-image token, in row order. attention_mask: [B,
        T],
        1 on real tokens, left padding. position_ids: [B, T]; counted from the mask when left out. labels: [B, T], -100
        ignored; adds `loss`. cache: earlier positions, extended by these. logits_to_keep: the last so many positions
        only, 0 for all E = T + n - 1 of them. Raises PictureError where pictures and rows do not match.
        """
        embedded = self.transformer.embed(
            input_ids, images=images, attention_mask=attention_mask, position_ids=position_ids, labels=labels
        )
        hidden = self.transformer(embedded, cache)
        head = self.transformer.output_layer
        loss = None if embedded.labels is None else token_loss(hidden, embedded.labels, head)
        kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        return Output(head(kept) if return_logits else None, loss, hidden)


def pool_last(hidden_BEC: Tensor, mask_BE: Tensor | None) -> Tensor:
    """Return each row's hidden state [B, C] at its own last real position."""
    places = torch.arange(hidden_BEC.shape[1], device=hidden_BEC.device)
    if mask_BE is None:
        return hidden_BEC[:, -1]
    last = (mask_BE.to(places.device).long() * places).argmax(dim=1)
    return hidden_BEC[torch.arange(len(hidden_BEC), device=hidden_BEC.device), last]


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of class logits [B, K]: squared error for one class, binary cross-entropy for float labels [B, K],
    else cross-entropy over labels [B].
    """
    logits = logits.float()
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.float().view(-1))
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.cross_entropy(logits, labels.view(-1))


class ChatGLMForSequenceClassification(nn.Module):
    """The decoder with a class head over the last real token of each row.

    The original code pools `hidden_states[-1]`, which since its change to batch-first tensors is the last *row* of the
    batch, not the last token; here each row is pooled at its own last real token.
    """

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = ChatGLMModel(config, head=False)
        self.dropout = nn.Dropout(config.classifier_dropout or 0.0)
        self.classifier_head = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor,
        images: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Output:
        """Return class logits [B, num_labels]; with `labels` [B] also the loss.

        Integer labels give cross-entropy (one class: mean squared error), float labels of the logits' shape give binary
        cross-entropy.
        """
        embedded = self.transformer.embed(
            input_ids, images=images, attention_mask=attention_mask, position_ids=position_ids
        )
        hidden = self.transformer(embedded)
        logits = self.classifier_head(self.dropout(pool_last(hidden, embedded.mask)))
        loss = None if labels is None else class_loss(logits, labels)
        return Output(logits, loss, hidden)
