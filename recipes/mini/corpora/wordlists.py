"""Sets of English words that the readers of picture sets share: colours, stop words, mass nouns, empty titles."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text, separated by blanks."""
    return frozenset(text.split())


COLOURS = word_set(
    "red orange yellow green blue purple pink brown black white grey gray golden gold silver violet cyan "
    "turquoise beige"
)
_COUNTING = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: number for number, word in enumerate(_COUNTING)}
STOP = word_set(
    "a an the of with on in and or at by for from to its it is are his her their this that some two three pair "
    "bunch piece set one as into near over under"
)
CUT = word_set(
    "with of on in at by for from to and or inside over under near made covered wearing holding playing making "
    "doing riding eating showing behind without about carrying pointing saying"
)
GROUPS = word_set("pair bunch cluster head piece slice couple bowl box tube cob pile stack group row loaf bundle")
SIZES = word_set(
    "big small large little tiny huge old new young happy sad very great long short tall cute modern simple "
    "nice beautiful ripe sweet fresh female male baby traditional typical fat thin round open closed lit "
    "folded"
)
# Words that tell how a picture was made or filed, not what it shows.
FILING = word_set(
    "icon icons clipart clip art remix svg png vector illustration illustrated drawing drawn image picture pic "
    "photo graphic graphics theme themes etiquette lemon outline outlined contour silhouette silhouet "
    "silouette bw bwh colour color coloured colored version ver copy example sample unsorted various "
    "collection example misc untitled test new final edited fixed sketch cartoon stylized stylised abstract "
    "simple hotel aiga package symbol symbols architetto hash alternative alt variant logo"
)
MASS = word_set(
    "milk water juice coffee tea wine beer bread rice cheese butter honey sugar salt pepper flour corn meat "
    "beef pork bacon chocolate cake-mix ice snow rain lightning fire smoke fog mist sand grass hay wood paper "
    "glass-ware gold silver money hair music clothing furniture food fruit-salad garlic ginger lettuce spinach "
    "broccoli asparagus cabbage celery parsley thyme basil mint toast pasta spaghetti sushi soup ketchup "
    "mustard popcorn tofu poultry seafood wheat barley cotton silk jewellery jewelry confetti equipment "
    "luggage mail air oil blood dirt mud soil soap shampoo toothpaste electricity traffic weather sunshine "
    "cream sewing knitting yarn thread camouflage tape ham sake champagne stormwater badminton lacrosse hockey "
    "pong yoga polo sweat steam polish cattle ink paint bamboo ice-cream lotion paprika"
)
UNIQUE = word_set("sun moon earth sky sea ocean equator")
NAMES = word_set("mercury venus mars jupiter saturn uranus neptune pluto")
DIRECTIONS = word_set("up down left right top bottom open close")
EMPTY = word_set("side back front general mm cm internet john hand-drawn self ex link")  # no thing by themselves
# heads that say nothing without what stands before them
ALONE = word_set(
    "symbol sign button picture face mark core rail index down back board piece part place room line mode "
    "model module cut roll shell top tails track play print prints quarter sharp flat one right left control "
    "entry exchange game kit light machine scale station tabs volume warning streamer popper slider bars "
    "frames posts emblems thumbs green bubble can pole suit well palm hand set springs claim ceremony race "
    "racing viewing arts feeding together"
)
PEOPLE = word_set("man woman person boy girl child baby men women people kiss couple family mage merman")
UNFIT = word_set("stripper sexy pimp babe thong thongs nude naked")
SAME = {"tux": "penguin", "home": "house", "homes": "houses", "dice": "die", "baloon": "balloon"}
