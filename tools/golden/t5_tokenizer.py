"""Writes tests/golden/t5: a small vocabulary as spiece.model and tokenizer.json, strings, and their ids.

Trains sentencepiece's unigram on made-up text. `ids` are for the small map of characters that both files
carry, `nfkc_ids`, where they differ, for sentencepiece's nmt_nfkc, which is T5's own cleaning. Both are what
sentencepiece says, but of cuts that are equally likely ("1 99 9" and "1 9 99") the one transformers' tokenizer
takes: it adds up scores in double precision, as FLUX's users know it. Rows where transformers differs in other ways
(user-defined pieces, blanks that the map does not know) are counted and follow sentencepiece.

Needs sentencepiece and protobuf besides requirements.txt.
"""

import io
import json
import pathlib
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tokenizer import strings

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "t5"
LIMIT = 100_000
SIZE = 700
EXTRA = 4  # <extra_id_N> behind the pieces, as T5 has 100
# Two columns of code points in hex: what is found, what it becomes.
RULES = [("9", "20"), ("A", "20"), ("D", "20"), ("C", "20"), ("A0", "20"), ("3000", "20"), ("2581", "20"),
         ("FEFF", "20"), ("200B", "20"), ("FFFD", "20"), ("1", ""), ("7F", ""), ("B2", "32"), ("BD", "31 2044 32"),
         ("65 301", "E9"), ("61 308", "E4"), ("FB01", "66 69"), ("FF21", "41"), ("2026", "2E 2E 2E"),
         ("63 327 301", "1E09"), ("63 327", "E7"), ("1F431", "63 61 74")]
SUBJECTS = """a cat;two dogs;an old woman with a red hat;the tall tower;a small house near the river;der Hund;
une fille;the robot;a knight in shining armour;a bowl of fruit;ein alter Mann;la vieille maison;a fox;seven birds;
a dragon made of glass;the astronaut;my neighbour's garden;a photographer;an owl;the king and the queen""".split(";")
ACTIONS = """sitting on a chair;running through the forest;under a stormy sky;painted in oil;looking at the viewer;
in front of a mountain;schläft im Garten;dans la forêt;at night, lit by neon;with flowers in the hair;on Mars;
made of marble;reading a newspaper;drinking coffee;in the style of an old master;walking in the rain;
holding a sign that says "hello";wearing a blue coat;at the beach;surrounded by books""".split(";")
STYLES = """highly detailed;cinematic lighting;8k;35mm film;soft focus;watercolour;black and white;isometric;bokeh;
golden hour;studio light;(best quality);trending;minimalist;photorealistic;wide angle;macro;symmetrical""".split(";")


def corpus():
    draw = random.Random(7)
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "ing")]
    invented = ["".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(900)]
    lines = []
    for _ in range(4000):
        styles = draw.sample(STYLES, draw.randint(0, 4))
        line = f"{draw.choice(SUBJECTS).strip()} {draw.choice(ACTIONS).strip()} {' '.join(draw.choices(invented, k=3))}"
        lines.append(", ".join([line, *(s.strip() for s in styles)]) + draw.choice(["", ".", "!", " 1999", " 2024"]))
    return lines


def train():
    rules = ROOT / "rules.tsv"
    rules.write_text("".join(f"{a}\t{b}\n" for a, b in RULES))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=SIZE, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=str(rules), num_threads=1,
        user_defined_symbols=["(c)"], minloglevel=2)
    rules.unlink()
    return model.getvalue()


def with_nmt_nfkc(model):
    """The same pieces behind sentencepiece's own nmt_nfkc."""
    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=other, vocab_size=SIZE, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name="nmt_nfkc", num_threads=1, minloglevel=2)
    proto, source = sentencepiece_model_pb2.ModelProto(), sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    source.ParseFromString(other.getvalue())
    proto.normalizer_spec.CopyFrom(source.normalizer_spec)
    return proto.SerializeToString()


def huggingface(model):
    """The tokenizer transformers' T5Tokenizer builds from these pieces."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    vocabulary = [(p.piece, p.score) for p in proto.pieces] + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(EXTRA))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")])
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in reversed(range(EXTRA)))]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken("(c)", normalized=False)])
    return tokenizer


def choose(processor, hub, text):
    """The ids, and whether transformers' differ by more than a choice among equals."""
    ids = processor.encode(text)
    other = hub.encode(text, add_special_tokens=False).ids
    if other == ids:
        return ids, False
    vocabulary = processor.get_piece_size()
    likely = [sum(processor.get_score(i) for i in cut if i < vocabulary) for cut in (ids, other)]
    equal = sorted(ids) == sorted(other) or (len(ids) == len(other) and abs(likely[0] - likely[1]) < 1e-4)
    return (other, False) if equal else (ids, True)


OWN = [
    "a cat sitting on a chair, highly detailed, 8k", "The  Old\tWOMAN\nwith a red hat", "(c) 2024 a(c)b (C)",
    "cafe\u0301 ma\u0308dchen c\u0327\u0301 c\u0327 ﬁlm Ａ … ½ 5²", "🐱🐱 and 🐶", "\ufeffbyte order\u200bmark", "a\u0001b\u007fc",
    "▁a▁cat▁", "  leading and trailing  ", "～ \uff5e", "xqzj 0123456789 漢字 漢字漢 字", "ΩΩΩ a ЖЖ", "a" * 60, "newspaper" * 9,
    "(c)(c)", "(c", "hello\u00a0there\u3000you", "\u00a8 \u1fc1 \ufdfa", "ĳ ŉ ǆ ℡ ㎏ ⅷ ①", "e\u0301\u0301", "\uac00\u1100\u1161",
]
NAMED = ["</s>", "a cat</s> a dog", "<pad><pad>x", "a <unk> b", "<extra_id_0> is <extra_id_3>", "</s", "< /s>", "</s></s>cat"]


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    model = train()
    (ROOT / "spiece.model").write_bytes(model)
    plain = sentencepiece.SentencePieceProcessor(model_proto=model)
    nfkc_model = with_nmt_nfkc(model)
    nfkc = sentencepiece.SentencePieceProcessor(model_proto=nfkc_model)
    hub, nfkc_hub = huggingface(model), huggingface(nfkc_model)
    document = json.loads(hub.to_str())
    (ROOT / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")

    texts = list(dict.fromkeys(OWN + [t for t in strings()[:-60] if "\x00" not in t and len(t) < 400]))
    draw = random.Random(8)
    texts += draw.sample(corpus(), 40)
    rows, apart = [], 0
    for text in texts:
        ids, differs = choose(plain, hub, text)
        nfkc_ids, _ = choose(nfkc, nfkc_hub, text)
        rows.append({"text": text, "ids": ids, **({"nfkc_ids": nfkc_ids} if nfkc_ids != ids else {})})
        apart += differs
    named = [{"text": text, "ids": hub.encode(text, add_special_tokens=False).ids} for text in NAMED]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    names = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in named)
    about = f"sentencepiece {sentencepiece.__version__}"
    (ROOT / "cases.json").write_text(f'{{"source": "{about}", "cases": [\n{lines}\n], "named": [\n{names}\n]}}\n')
    for path in sorted(ROOT.iterdir()):
        size = path.stat().st_size
        print(f"{size:7} {path.name}")
        if size > LIMIT:
            raise ValueError(f"{path} has {size} bytes")
    print(f"{len(rows)} strings, {apart} where transformers differs")


if __name__ == "__main__":
    main()
