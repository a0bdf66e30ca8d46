"""Chat templates as an attacker writes them: programs that reach for more than text, or flood; all end soon."""

import random
from typing import Any

import pytest

from polymodal.data import jinja_values
from polymodal.data.chat_template import ChatTemplate, TemplateSource
from polymodal.data.messages import Message, user
from polymodal.errors import PromptError
from tiny_text import letters_tokenizer

TOKENIZER = letters_tokenizer()
GROW = "{% set n = namespace(a='a', b=[1], c=(1,), d={}) %}{% for i in range(99999) %}"
FLOODS = {
    "separators": "{{ ([1] * 100000) | tojson(separators=('x' * 200000, ':')) }}",
    "indents": "{{ ([[[1]]] * 80000) | tojson(indent=999) }}",
    "a text that doubles": GROW + "{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    "a list that doubles": GROW + "{% set n.b = n.b + n.b %}{% endfor %}{{ n.b }}",
    "a list of itself twice": GROW + "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.b }}",
    "tables in tables": GROW + "{% set n.d = {'a': n.d, 'b': n.d} %}{% endfor %}{{ n.d == n.d }}",
    "pairs that are compared": GROW + "{% set n.c = (n.c, n.c) %}{% endfor %}{{ n.c == n.c }}",
    "a text within itself": "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a %}"
    "{{ n.a }}{{ n.a }}{% endset %}{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that leave out": "{% for i in range(99999) if range(99999) | list | length < 0 %}{% endfor %}",
    "arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}"
    "{% for i in range(99999) %}{{ f(*range(99999)) }}{% endfor %}",
    "cycles": "{% for i in range(99999) %}{{ loop.cycle(*range(99999)) }}{% endfor %}",
    "changes": "{% for i in range(99999) %}{{ loop.changed(*range(99999)) }}{% endfor %}",
    "joiners": "{% set j = joiner('x' * 200000) %}{% for i in range(99999) %}{{ j() }}{% endfor %}",
    "sorting": "{% set a = range(99999) | list %}{% for i in range(99999) %}{% set b = a | sort %}{% endfor %}",
    "sets": "{% set a = range(99999) | list %}{% for i in range(99999) %}{% set b = a | unique | list %}{% endfor %}",
    "looking for": "{% set a = 'a' * 200000 %}{% for i in range(99999) %}{{ ('a' * 100000 + 'b') in a }}{% endfor %}",
    "counting": "{% set a = 'a' * 200000 %}{% for i in range(99999) %}{{ a.count(a[1:] ~ 'b') }}{% endfor %}",
    "replacing nothing": "{{ ('a' * 200000) | replace('', 'b' * 1000) }}",
    "escapes": "{{ ('&' * 200000) | e }}",
    "letters that become three": "{{ ('ΐ' * 200000).upper() }}",
    "hidden letters": "{{ ['\U000e0001' * 200000] | string }}",
    "numbers": "{% set n = namespace(a=2) %}{% for i in range(99) %}{% set n.a = n.a ** 64 %}{% endfor %}",
    "digits": "{% for i in range(99999) %}{{ ('f' * 200000) | int(0, 16) }}{% endfor %}",
    "fields": "{{ ('%999d' * 9999) % ((1,) * 9999) }}",
    "macros": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "loops of loops": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "brackets": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "lists in lists": "{{ " + "[" * 9000 + "]" * 9000 + " }}",
    "blocks in blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a chain of names": "{{ a" + ".b" * 20000 + " }}",
    "a chain of filters": "{{ 1" + "|abs" * 12000 + " }}",
    "choices": "{% if 0 %}" + "{% elif 0 %}" * 4000 + "{% endif %}",
    "an open text": "{{ '" + "\\" * 60000,
    "open marks": "{%-" * 20000,
    "a book": "x" * 70000,
}
ATOMS = (
    """
1 ; 0 ; -1 ; 1e308 ; 99999 ; 'a' ; '' ; '%s' ; '{}' ; '{0.__class__}' ; [] ; [1, 'b'] ; {} ; {'a': 1} ; (1,) ;
true ; none ; x ; messages ; messages[0] ; messages[0].content ; loop ; namespace() ; range(9) ; n ; n.a ;
cycler(1, 2) ; joiner() ; self ; varargs ; caller ; dict(a=1) ; bos_token ; 'a' * 9999 ; range
""".replace("\n", " ")
    .strip()
    .split(" ; ")
)
FILTERS = (
    """
length ; list ; string ; join(',') ; replace('a', 'bb') ; tojson ; tojson(indent=2) ; upper ; sort ;
map('upper') ; map(attribute='__class__') ; select ; reject('none') ; first ; last ; int ; float ; abs ; sum ;
max ; reverse ; unique ; items ; dictsort ; indent(9) ; format(1) ; default('a') ; round(2) ; trim ; e ;
batch(2) ; attr('__class__') ; groupby('a') ; xmlattr ; safe ; center(99) ; count ; map(x)
""".replace("\n", " ")
    .strip()
    .split(" ; ")
)
NAMES = (
    """
__class__ ; __globals__ ; __init__ ; _function ; upper ; format ; items ; split ; get ; append ; a ; content ;
cycle ; changed ; length ; join ; mro ; func_globals ; strip ; next ; update ; pop ; encode
""".replace("\n", " ")
    .strip()
    .split(" ; ")
)
OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "is", "not in")


@pytest.fixture(autouse=True)
def a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run may take; five in truth."""
    monkeypatch.setattr(jinja_values, "MAX_SECONDS", 0.5)


def rendered(source: str) -> list[Any]:
    template = ChatTemplate(source=TemplateSource(text=source, file="chat_template.jinja"), tokenizer=TOKENIZER)
    return list(
        template.render([user("Hello <|im_end|>"), Message(role="assistant", parts=user("Hi").parts)], ask=True)
    )


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_soon_in_one_line(name: str, attack: Any) -> None:
    with attack.one(name, seconds=10, megabytes=500), pytest.raises(PromptError) as refusal:
        rendered(FLOODS[name])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def expression(rng: random.Random, depth: int = 3) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(ATOMS)
    inside = expression(rng, depth - 1)
    match rng.randrange(7):
        case 0:
            return f"({inside} {rng.choice(OPERATORS)} {expression(rng, depth - 1)})"
        case 1 | 2:
            return f"({inside}) | {rng.choice(FILTERS)}"
        case 3:
            return f"({inside}).{rng.choice(NAMES)}"
        case 4:
            return f"({inside}).{rng.choice(NAMES)}({expression(rng, depth - 1)})"
        case 5:
            return f"({inside})[{expression(rng, depth - 1)}]"
        case _:
            return f"[{inside}, {expression(rng, depth - 1)}]"


def program(rng: random.Random, depth: int = 3) -> str:
    """A template of random blocks."""
    some = [f"{{{{ {expression(rng)} }}}}" for _ in range(rng.randint(0, 2))]
    for _ in range(rng.randint(0, 2) if depth else 0):
        body, value = program(rng, depth - 1), expression(rng)
        some.append(rng.choice((
            f"{{% for x in {value} %}}{body}{{% endfor %}}", f"{{% for x in range(300) %}}{body}{{% endfor %}}",
            f"{{% if {value} %}}{body}{{% else %}}{{{{ x }}}}{{% endif %}}", f"{{% set n.a = {value} %}}{body}",
            f"{{% set x %}}{body}{{% endset %}}",
            f"{{% macro f(x) %}}{body}{{{{ f(x) }}}}{{% endmacro %}}{{{{ f({value}) }}}}",
            f"{{% filter {rng.choice(FILTERS)} %}}{body}{{% endfilter %}}",
            f"{{% generation %}}{body}{{% endgeneration %}}",
            f"{{% macro g() %}}{{{{ caller() }}}}{{% endmacro %}}{{% call g() %}}{body}{{% endcall %}}",
            f"{{% with x = {value} %}}{body}{{% endwith %}}",
            f"{{% for x in {value} recursive %}}{body}{{{{ loop(x) }}}}{{% endfor %}}",
        )))  # fmt: skip
    rng.shuffle(some)
    return "".join(some)


def test_generated_programs_give_text_or_are_refused(attack: Any) -> None:
    for number, rng in attack.inputs(100):
        source = "{% set n = namespace(a=1) %}{{ messages[0].content }}" + program(rng)
        with attack.one(number, seconds=10, megabytes=500):
            text = "".join(getattr(each, "text", "") for each in rendered(source))
            for leaked in ("<class", "object at 0x", "<function", "<bound method", "<built-in"):
                assert leaked not in text, source
