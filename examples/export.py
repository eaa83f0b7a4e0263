"""Give a GLM-4V back to stock transformers: python export.py WHERE OUT

OUT holds the weights and, as the checkpoint's custom code, uncrate's own in three readable files. The second half
runs it as anybody would who has never heard of uncrate.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from uncrate.export import export


def main(where: str, out: str) -> None:
    done = export(where, out, tokenizer_json=True)
    print(f"wrote {done.written.tensors} tensors and {', '.join(done.code)}")
    print(f"tokenizer.json gives the same ids on {done.proven:,} characters")

    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()
    messages = [{"role": "user", "content": "What digit is red?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        answer = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
