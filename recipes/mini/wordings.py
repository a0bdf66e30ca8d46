"""Question wordings, names of categories and styles, and which categories exclude each other."""

from corpora.wordlists import word_set

# Question wordings: the first tuple is for training, the second is held out for testing.
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what": (
        (
            "What is this?", "What is in this picture?", "What is in the picture?", "Name the object.",
            "What does the picture show?", "What do you see?", "What's this?", "What is shown here?",
            "Name what you see.", "What object is this?", "What can you see in the image?", "Say what this is.",
            "Which thing is in the picture?", "What is it?",
        ),
        (
            "What is in this image?", "Tell me what this is.", "What am I looking at?",
            "Identify the object in the image.",
        ),
    ),
    "describe": (
        (
            "Describe the picture.", "Describe this image.", "Write a caption.",
            "Give a short caption for this picture.", "Describe what you see.",
            "Describe the image in a few words.", "Caption this.",
        ),
        (
            "What would be a good caption for this image?", "Describe this picture briefly.",
            "Write a short description.",
        ),
    ),
    "yes_no": (
        (
            "Is this {}?", "Does the picture show {}?", "Is there {} in the picture?", "Can you see {}?",
            "Is {} shown here?", "Do you see {} in this image?", "Is it {}?",
        ),
        ("Would you say this is {}?", "Does this image contain {}?", "Is that {}?"),
    ),
    "which": (
        (
            "Which is it: {}?", "Is this {}?", "What is it: {}?", "Choose one: {}.", "Which of these is shown: {}?",
            "What does the picture show: {}?",
        ),
        ("Which of these do you see: {}?", "Pick the right one: {}."),
    ),
    "colour": (
        (
            "What colour is it?", "What color is it?", "What color is this?", "Which colour is it?", "Name its color.",
            "What is the main color?", "What colour is {}?", "What color is {}?",
        ),
        ("Which color does it have?", "Tell me the colour of this.", "What is its colour?"),
    ),
    "category": (
        ("Is it {}?", "What kind of thing is it: {}?", "Is this {}?", "Which kind is it: {}?"),
        ("Would you call it {}?", "Which group does it belong to: {}?"),
    ),
}  # fmt: skip
STYLES = {
    "photo": "A photo of", "cartoon": "A cartoon of", "clip art": "A drawing of", "doodle": "A doodle of",
    "3d emoji": "An emoji of", "flat emoji": "An emoji of", "noto emoji": "An emoji of",
}  # fmt: skip
KIND_NAMES = {
    "animal": "an animal", "food": "food", "plant": "a plant", "person": "a person", "vehicle": "a vehicle",
    "clothing": "clothing", "building": "a building", "musical instrument": "a musical instrument",
    "furniture": "furniture", "body part": "a body part", "tool": "a tool", "face": "a face", "flag": "a flag",
    "sign": "a sign", "letter": "a letter", "number": "a number",
}  # fmt: skip
# categories that may both apply to one image are never offered together
CLOSE = ({"person", "face", "body part", "animal"}, {"food", "plant", "animal"}, {"sign", "letter", "number", "flag"})
# broader names that are certainly correct for an image of that category, if WordNet has them as hypernyms of its noun
BROADER = {
    "animal": {"animal", "bird", "fish", "insect", "dog", "cat", "snake", "mammal"},
    "food": {"food", "fruit", "vegetable"},
    "plant": {"plant", "tree", "flower"},
    "vehicle": {"vehicle", "car", "boat", "ship", "truck", "bus"},
    "clothing": {"hat", "shoe"},
    "building": {"building", "house"},
    "tool": {"tool"},
    "musical instrument": {"musical instrument", "drum", "guitar"},
}
# categories with very many names of one pattern: wrong names come from the same category only
SERIES = frozenset({"flag", "letter", "number", "face", "sign"})
BROAD = 0.15  # share of "yes" questions with a broader name ("Is this an animal?")
ANYBODY = word_set("man woman person boy girl child people men women couple family head baby kid adult")
NO_COLOUR = frozenset({"person", "flag", "sign", "letter", "number"})
PLURAL = (
    ("Is this", "Are these"), ("Is it", "Are these"), ("Is there", "Are there"), ("Is that", "Are those"),
    ("Is {}", "Are {}"), ("say this is", "say these are"),
)  # fmt: skip
