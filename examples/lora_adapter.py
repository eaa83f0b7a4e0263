"""Train a LoRA for a few steps with PEFT, save it, open it again by its path alone.

python examples/lora_adapter.py [WHERE] [OUT]                     nano, ./lora-example
"""

import sys

import torch
from peft import LoraConfig, get_peft_model

from uncrate.auto import AutoModelForCausalLM, AutoTokenizer


def main(where: str = "nano", out: str = "./lora-example") -> None:
    tokenizer = AutoTokenizer.from_pretrained(where)
    model = AutoModelForCausalLM.from_pretrained(where, use_cache=False)
    # The name is that of both towers, so pictures are read with the adapter as well.
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=["query_key_value"])
    model = get_peft_model(model, lora)
    model.print_trainable_parameters()

    chat = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "\nA crate, open."}]
    batch = tokenizer.apply_chat_template(chat, return_tensors="pt", return_assistant_tokens_mask=True)
    answer = batch.pop("assistant_masks").bool()
    labels = batch["input_ids"].masked_fill(~answer, -100)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for step in range(10):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}")
    model.save_pretrained(out)

    again = AutoModelForCausalLM.from_pretrained(out, base=where)  # the adapter leads to its base
    print(f"opened again: loss {again(**batch, labels=labels).loss.item():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
