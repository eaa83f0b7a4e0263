"""A program written for transformers: only the import has changed.

python examples/drop_in_auto.py [WHERE] [PICTURE] [QUESTION]      nano, its first picture, "What digit is red?"
"""

import sys
from pathlib import Path

import torch
from PIL import Image

import uncrate
from uncrate.auto import AutoModelForCausalLM, AutoTokenizer  # was: from transformers import ...


def main(where: str = "nano", picture: str = "", question: str = "What digit is red?") -> None:
    picture = picture or str(next((Path(uncrate.__file__).parent / "nano" / "pictures").glob("*.png")))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=True)
    image = Image.open(picture).convert("RGB")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "image": image, "content": question}],
        add_generation_prompt=True,
        tokenize=True,
        return_tensors="pt",
        return_dict=True,
    ).to(device)

    model = AutoModelForCausalLM.from_pretrained(where, low_cpu_mem_usage=True, trust_remote_code=True)
    model = model.to(device).eval()
    with torch.no_grad():
        outputs = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
