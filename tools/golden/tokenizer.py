"""Writes tests/golden/clip_tokens.json: strings and the ids transformers' CLIPTokenizer gives them.

Needs transformers and open_clip_torch (for the vocabulary file it carries). The ids are without
start and end.
"""
import gzip
import importlib.util
import json
import pathlib
import random
import sys

from transformers import CLIPTokenizer
from transformers import __version__ as transformers_version

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import fetch_clip_vocab  # noqa: E402

PLAIN = """a cat
A photo of a CAT, 8k, masterpiece!!!
it's the dogs' bone; they're we've I'm he'll she'd CAN'T O'Brien's
''s 'sx 's't '' ' "'s" '''re !'s
1 22 333 4.5 1,000 3/4 50% 0x1F 1e-5 2024-01-31 ½ ² Ⅷ ٣٤ 四 ５
semi-realistic, (best quality:1.2), [bad], {a|b}, <lora:name:0.8>, BREAK, \\(x\\)
http://example.com/a_b?c=d&e=f#g  user@example.org  #hashtag @name $100 €5 £3 ¥7
<|endoftext|>
a<|endoftext|>b <|startoftext|> c
<|EndOfText|>!!! <|ENDOFTEXT|> !<|StartOfText|>x
<|endoftext <|endoftext|><|endoftext|> |>
&amp; &lt;b&gt; &quot;x&quot;
...!!!???---___===+++***///\\\\\\~~~```^^^
pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism
Ein Mädchen mit großen Füßen, STRASSE, ẞ
Una niña pequeña comió piñas; ¿qué? ¡Olé!
L'été où l'œuvre d'Ève naïve fut reçue à Noël
Дождь идёт над Санкт-Петербургом
Ο Σίσυφος σε ΟΔΟΣ
İstanbul'da IŞIK ılık
žluťoučký kůň úpěl ďábelské ódy
Zażółć gęślą jaźń
cô gái Việt Nam mặc áo dài
一只可爱的猫坐在窗边，夜晚
美しい女性、桜の木の下で、浴衣
カタカナ ｶﾀｶﾅ ひらがな ゔ がぎぐ ＡＢＣ　１２３
귀여운 고양이가 창가에 앉아 있다
قطة جميلة تجلس بجانب النافذة
חתול יפה יושב ליד החלון שָׁלוֹם
एक सुंदर बिल्ली खिड़की पर बैठी है
แมวน่ารักนั่งอยู่ริมหน้าต่าง
ეს არის კატა ᲙᲐᲢᲐ
Ꭰꭰ Ꮿ ꮿ 𐐀𐐨 Ǆ ǅ ǆ ﬁ ﬀ ŉ ǰ
🐱 🐶🐱 👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ ☺ ✨✨✨ 🏳️‍🌈 #️⃣
é e\u0301 \u1e69 s\u0323\u0307 s\u0307\u0323 \u212b \u2126 \u0344 \uac00 \u1100\u1161\u11a8 \u0958 \U0001d15e
a\u0300\u0301\u0302\u0303b \u0301x \u200b\u200c\u200d\ufeffy \u00adz
x\u00a0y\u1680z\u2003a\u2028b\u2029c\u202fd\u205fe\u3000f\u0085g\u180eh
\u0000a\u0001b\u001fc\u007fd\u009fe
\ufffd \ufffe\uffff\U0010ffff \ue000 \U000e0041
math ∑∫√∞≠≤≥ → ← ↔ ⇒ ∀x∈ℝ ℕ 𝔸𝕓𝟙 x² H₂O
“quotes” ‘single’ «guillemets» „low“ – — … • ™ © ®
x\x0by\x0cz
   leading and trailing   
""".split("\n")

WORDS = PLAIN[1].split() + """portrait landscape cinematic lighting, ultra-detailed oil painting by Greg
 Rutkowski trending on artstation 4k HDR bokeh f/1.8 85mm studio ghibli cyberpunk neon city rain
 reflections volumetric fog golden hour (masterpiece) best_quality 1girl solo looking_at_viewer
 cat's dog's they'll über naïve café 東京 москва 🐈 ☕️ -- , . ! ? : ; ' " 0 42 1999""".split()


def strings():
    """The plain lines, blank and long texts, random phrases and random code points."""
    draw = random.Random(20)
    cases = PLAIN + ["", " ", "a\tb\nc\r\nd\re", "\n\t ", "a" * 500, "aB" * 300, "!" * 200, "'" * 33,
                     "é" * 150, "😀" * 60, "1" * 90, "the quick brown fox " * 40,
                     "x" * 77 + " " + "y" * 77]
    for _ in range(140):
        words = draw.choices(WORDS, k=draw.randint(1, 14))
        cases.append(draw.choice([" ", "  ", ", ", "", "\n"]).join(words))
    planes = [(0x20, 0x7E)] * 6 + [(0xA0, 0x24F), (0x250, 0x58F), (0x590, 0x8FF), (0x900, 0x137F),
                                   (0x1E00, 0x2BFF), (0x3000, 0xD7FF), (0x1F300, 0x1F6FF)]
    for _ in range(120):
        cases.append("".join(chr(draw.randint(*draw.choice(planes)))
                             for _ in range(draw.randint(1, 24))))
    return list(dict.fromkeys(cases))


def clip_tokenizer():
    """transformers' tokenizer over the vocabulary file of open_clip_torch."""
    package = pathlib.Path(importlib.util.find_spec("open_clip").origin).parent
    text = gzip.decompress((package / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    lines = text.split("\n")[1 : fetch_clip_vocab.MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    single = fetch_clip_vocab.byte_characters()
    tokens = [*single, *(c + "</w>" for c in single), *("".join(m) for m in merges),
              "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)


def main():
    tokenizer = clip_tokenizer()
    rows = [[text, tokenizer(text)["input_ids"][1:-1]] for text in strings()]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    source = f"transformers {transformers_version} CLIPTokenizer"
    target = ROOT / "tests" / "golden" / "clip_tokens.json"
    target.write_text(f'{{"source": "{source}", "cases": [\n{lines}\n]}}\n')
    print(f"{target}: {len(rows)} strings, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
