"""Question wordings, names of categories and styles, and which categories exclude each other.

Of each pair of tuples the first is for training, the second is held out for testing.
"""

from corpora.wordlists import word_set

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

# Questions that ask for everything (several.py).
SEVERAL = (
    (
        "What can you see?", "What things are in the picture?", "List everything you see.", "What do you see?",
        "What can you see in the image?", "Which things are in the picture?", "List the things in the picture.",
        "Name everything in the picture.", "What objects are in the picture?", "List the objects.",
        "What are the things in this picture?", "Name all objects in this image.", "What all is in the picture?",
        "Which objects do you see?", "Tell me all the things that you see.", "What is there to see?",
    ),
    (
        "What things can you see here?", "Tell me everything that is in the image.", "Which objects are shown?",
        "List what is in this photo.", "Name all the things you can see.",
    ),
)  # fmt: skip
# Questions that mini cannot answer; {n} is the name of a thing, {s} its plural.  Kinds without training wordings are
# for testing alone.
UNKNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "count": (
        (
            "How many {s} are there?", "How many people are in the picture?", "How many {s} do you see?",
            "Count the {s}.", "What is the number of {s}?", "How many things are there?", "How many {s} are shown?",
            "Count the people in the picture.", "What number of {s} is in the picture?",
        ),
        ("How many {s} can you count?", "Tell me how many {s} there are.", "How many people do you see here?"),
    ),
    "read": (
        (
            "What does the sign say?", "What is written here?", "Read the text.", "What does it say on the {n}?",
            "What does the text in the picture say?", "What number is on the {n}?", "Which words can you read?",
            "What letters are on the {n}?", "Read what is written on the {n}.", "What is the title?",
        ),
        ("What is the text on the {n}?", "Which words are written there?", "Read out the sign to me."),
    ),
    "who": (
        (
            "Who is this?", "Who is the person in the picture?", "What is his name?", "What is her name?",
            "What is the name of the {n}?", "Do you know who this is?", "Which famous person is this?",
            "Who are these people?", "What is the person's name?", "Who is the {n}?",
        ),
        ("Who is shown in the picture?", "What is this person called?", "Who do you see here?"),
    ),
    "place in the picture": (
        (
            "What is left of the {n}?", "What is to the right of the {n}?", "What is behind the {n}?",
            "What is in front of the {n}?", "What is on top of the {n}?", "What is next to the {n}?",
            "Where is the {n}?", "Which side is the {n} on?", "What is under the {n}?", "What is on the left?",
            "What is inside the {n}?", "What is between the {n} and the person?",
        ),
        (
            "What stands beside the {n}?", "What lies below the {n}?", "What is above the {n}?",
            "Where in the picture is the {n}?",
        ),
    ),
    "feeling": (
        (
            "How does the {n} feel?", "What is the mood of the {n}?", "What is the person thinking?",
            "Why is the {n} happy?", "What emotion does the {n} show?", "What does the {n} want?",
            "What is the {n} afraid of?",
        ),
        ("What feelings does the {n} have?", "In which mood is the {n}?", "What is on the mind of the {n}?"),
    ),
    "time": (
        (
            "When was this taken?", "What year is it?", "What time is it?", "What time of day is it?",
            "What season is it?", "When was the picture made?", "Which month is it?", "How long ago was this?",
        ),
        ("In which year was the picture made?", "At what time was this taken?", "What day of the week is it?"),
    ),
    "place": (
        (
            "Where was this taken?", "Which city is this?", "What country is this?", "Where does the {n} come from?",
            "What is the address?", "Which street is this?", "Where was the picture made?", "Where in the world is it?",
        ),
        ("In which town was this?", "Which country was this picture taken in?", "Where did they take the picture?"),
    ),
    "measure": (
        (
            "How much does the {n} cost?", "What is the price of the {n}?", "How old is the {n}?",
            "How big is the {n}?", "How heavy is the {n}?", "How tall is the {n}?", "How far away is the {n}?",
            "How long is the {n}?", "How much is it?", "What is its age?",
        ),
        ("What does the {n} weigh?", "What would I pay for the {n}?", "What size is the {n}?"),
    ),
    "story": (
        (
            "What is the {n} doing?", "What is happening?", "What happened before this?", "What will happen next?",
            "Why is the {n} there?", "Who took the picture?", "Who owns the {n}?", "Whose {n} is this?",
            "What is the {n} made of?", "What does the {n} sound like?", "Who made the {n}?", "Why did this happen?",
        ),
        ("What activity is going on?", "What comes next?", "To whom does the {n} belong?"),
    ),
    "weather": ((), ("What is the weather like?", "How warm is it there?")),
    "brand": ((), ("What brand is the {n}?", "Which company makes the {n}?")),
    "speed": ((), ("How fast is the {n}?", "How fast does the {n} go?")),
}  # fmt: skip
# Questions beside those that it can answer: they have the words of the above and another sense.
NEAR = (
    (
        "What animal is in the picture?", "What kind of animal is this?", "Which animal do you see?",
        "What vehicle is it?", "What food is this?", "What is that?", "What is this thing called?", "What is shown?",
        "What is the name of this thing?", "What fruit is it?", "What is in the middle of the picture?",
        "What kind of thing is it?", "Name it.", "What does this look like?", "Is there a person in the picture?",
        "Are there people in the picture?", "Can you see a {n}?", "What is the name of this object?",
        "What colour is the {n}?", "What is here?", "Which object is it?", "What is this a picture of?",
    ),
    (
        "What sort of animal is it?", "What is the thing in the picture called?", "What would you call this?",
        "Is any person in the picture?", "What is this picture of?", "Which animal is this?",
    ),
)  # fmt: skip
CANNOT = "I cannot tell that from the picture."
