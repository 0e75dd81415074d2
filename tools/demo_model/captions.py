"""Words a drawn scene in one of several ways; attributes are left out now and then."""
ADJECTIVES = {"small": ("small", "small", "small", "tiny", "little"), "medium": ("medium", "medium-sized"),
              "large": ("large", "large", "big", "huge")}
NOUNS = {"circle": ("circle", "circle", "circle", "circle", "disc", "dot", "ball"),
         "square": ("square", "square", "square", "square", "box"), "triangle": ("triangle",), "star": ("star",),
         "diamond": ("diamond", "diamond", "diamond", "rhombus"), "cross": ("cross", "cross", "cross", "plus sign"),
         "ring": ("ring", "ring", "ring", "donut"), "heart": ("heart",)}
ANY_NOUN = ("shape", "object", "thing")
CELLS = {(0, 0): ("top left", "upper left"), (1, 0): ("top",), (2, 0): ("top right", "upper right"),
         (0, 1): ("left",), (1, 1): ("center", "middle", "centre"), (2, 1): ("right",),
         (0, 2): ("bottom left", "lower left"), (1, 2): ("bottom",), (2, 2): ("bottom right", "lower right")}
RELATIONS = {"left": ("left of", "to the left of", "on the left of"),
             "right": ("right of", "to the right of", "on the right of"),
             "above": ("above", "over", "on top of"), "below": ("below", "under", "beneath"),
             "inside": ("inside", "in", "within")}
SIDES = {"left": (("on the left", "on the right"), ("left", "right")),
         "right": (("on the right", "on the left"), ("right", "left")),
         "above": (("at the top", "at the bottom"), ("top", "bottom")),
         "below": (("at the bottom", "at the top"), ("bottom", "top"))}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OPENINGS = ("a picture of ", "a drawing of ", "an image of ", "a photo of ", "there is ", "a simple drawing of ")


def _pick(rng, names):
    return names[int(rng.integers(len(names)))]


def _article(words, rng):
    if rng.random() < 0.12:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun_phrase(thing, rng, keep):
    words = []
    if thing.size != "medium" and rng.random() < 0.93 or thing.size == "medium" and rng.random() < 0.12:
        words.append(_pick(rng, ADJECTIVES[thing.size]))
    if rng.random() < keep:
        words.append(thing.colour)
    words.append(_pick(rng, NOUNS[thing.shape] if rng.random() < keep else ANY_NOUN))
    return _article(" ".join(words), rng)


def _place(cell, rng):
    name = _pick(rng, CELLS[cell])
    if rng.random() < 0.15:
        return ", " + name
    if cell == (1, 1):
        return " in the " + name
    if " " in name:
        return _pick(rng, (" in the ", " at the ", " in the ")) + name + _pick(rng, ("", "", " corner"))
    if name in ("left", "right"):
        return _pick(rng, (" on the ", " at the ")) + name + _pick(rng, ("", "", " side"))
    return " at the " + name


def _background(scene, rng):
    colour = scene.background
    if rng.random() < 0.3:
        return f", {colour} background"
    return _pick(rng, (" on a {} background", " on a {} background", " with a {} background",
                       " against a {} background", " on {}")).format(colour)


def _arranged(scene, rng):
    keep, relation = 0.97, scene.relation
    first, second = (_noun_phrase(t, rng, keep) for t in scene.things)
    if relation == "inside":
        return f"{second} {_pick(rng, RELATIONS['inside'])} {first}"
    if rng.random() < 0.5:  # tell it from the other thing's side
        first, second, relation = second, first, OPPOSITE[relation]
    roll = rng.random()
    if roll < 0.62:
        return f"{first} {_pick(rng, RELATIONS[relation])} {second}"
    if roll < 0.82:
        long, short = SIDES[relation]
        if rng.random() < 0.7:
            return f"{first} {long[0]} and {second} {long[1]}"
        return f"{first} {short[0]}, {second} {short[1]}"
    joint = " next to " if relation in ("left", "right") and rng.random() < 0.3 else " and "
    return first + joint + second


def caption(scene, rng):
    """A prompt for the scene, in lower case; sometimes a single word of it."""
    thing = scene.things[0]
    if rng.random() < 0.03:
        return _pick(rng, (thing.colour, thing.shape, scene.background + " background"))
    if scene.relation:
        text = _arranged(scene, rng)
    else:
        text = _noun_phrase(thing, rng, 0.92)
        if scene.cell and rng.random() < 0.93:
            text += _place(scene.cell, rng)
    if rng.random() < 0.6:
        text += _background(scene, rng)
    if rng.random() < 0.12:
        text = _pick(rng, OPENINGS) + text
    return text + ("." if rng.random() < 0.08 else "")
