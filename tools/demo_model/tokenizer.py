"""CLIP's byte-pair encoding of plain text, from open_clip_torch's bpe_simple_vocab_16e6.txt.gz."""
import gzip
import re
import zipfile

START, END, LENGTH = 49406, 49407, 77


def read_merges(path):
    """The merge lines of the vocabulary file, given itself or inside the open_clip_torch wheel."""
    if path.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    else:
        with open(path, "rb") as f:
            data = f.read()
    lines = gzip.decompress(data).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1:49152 - 256 - 2 + 1]]


class Tokenizer:
    """Encodes ASCII prompts to 77 ids: start, tokens, end, padded with end."""

    def __init__(self, path):
        merges = read_merges(path)
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in printable]
        self.letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
        units = [self.letters[b] for b in printable + rest]
        names = units + [u + "</w>" for u in units] + ["".join(m) for m in merges]
        self.ids = {name: i for i, name in enumerate(names)}
        self.ranks = {m: i for i, m in enumerate(merges)}
        self.known = {}

    def word(self, word):
        """The ids of one word, by merging the pair of the lowest rank until none is left."""
        if word not in self.known:
            parts = [self.letters[b] for b in word.encode("utf-8")]
            parts[-1] += "</w>"
            while len(parts) > 1:
                rank, at = min((self.ranks.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:])))
                if rank == 1 << 30:
                    break
                parts[at:at + 2] = [parts[at] + parts[at + 1]]
            self.known[word] = [self.ids[p] for p in parts]
        return self.known[word]

    def __call__(self, text):
        words = re.findall(r"'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())
        ids = [i for word in words for i in self.word(word)][:LENGTH - 2]
        return [START, *ids, END] + [END] * (LENGTH - 2 - len(ids))
