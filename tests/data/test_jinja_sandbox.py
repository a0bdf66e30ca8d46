"""Chat templates are programs of strangers: what published ones use works, nothing else does, none runs for long."""

import time

import pytest

from polymodal.data import jinja_values
from polymodal.data.generation_marks import GENERATION_END, GENERATION_START
from polymodal.data.jinja_sandbox import MAX_SOURCE, Refusal, compiled

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image", "image": "image"}, {"type": "text", "text": " What <is> it? "}]},
    {"role": "assistant", "content": "A cat."},
]

# A template that reaches anything but its messages would print one of these.
LEAKS = ("class", "function", "module", "object at", "builtin", "method", "site-packages", "import", "frame")
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__class__.__base__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='content.__class__')|list }}",
    "{{ messages|selectattr('__class__')|list|length }}",
    "{{ messages|sort(attribute='__class__') }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ (messages|first)['__init__']['__globals__'] }}",
    "{{ messages.append({'role': 'x'}) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages.clear() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ range.__globals__ }}",
    "{{ range._function }}",
    "{{ range.__call__.__globals__ }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{% set ns = namespace() %}{{ ns._Namespace__attrs }}",
    "{% set ns = namespace(__class__='x') %}{{ ns.__init__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__dict__ }}",
    "{{ namespace() }}",
    "{{ cycler('a')._next }}{{ cycler('a').__init__.__globals__ }}",
    "{{ joiner.__init__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ dict.__base__ }}",
    "{{ dict.mro() }}",
    "{{ config }}{{ request.application }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0[0].__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ '%s'|format(range) }}",
    "{{ '%(a)s'|format(a=range) }}",
    "{{ '%s' % raise_exception }}",
    "{{ ''.join(messages[0].__class__) }}",
    "{{ [range] }}",
    "{{ {'a': range} }}",
    "{{ range ~ '' }}",
    "{{ range|string }}",
    "{{ range|tojson }}",
    "{% for x in messages %}{{ loop.__class__ }}{{ loop._iterable }}{{ loop }}{% endfor %}",
    "{% for x in messages %}{{ loop.cycle.__func__.__globals__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__ }}{{ m._func.__globals__ }}{{ m._environment }}",
    "{% macro m() %}{{ caller.__globals__ }}{{ varargs.__class__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{% endmacro %}{{ m }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import system %}",
    "{% extends 'base' %}",
    "{% block a %}{{ super.__init__ }}{% endblock %}",
    "{{ ''.encode('utf-8').__class__ }}",
    "{{ 'a'.translate({}) }}",
    "{{ ()|attr('__class__')|attr('__base__') }}",
    "{{ messages|pprint }}",
    "{{ messages|xmlattr }}",
    "{{ 'a'|urlize }}",
    "{{ environment }}{{ context }}{{ __builtins__ }}{{ __import__('os') }}",
    "{% debug %}",
    "{% do messages.append(1) %}",
    "{% set x = messages.__setitem__ %}{{ x(0, 1) }}",
    "{{ messages[0]|items|first|attr('__class__') }}",
    "{{ undefined_name.__class__ }}",
    "{{ undefined_name._fail_with_undefined_error.__globals__ }}",
    "{{ messages is callable }}{{ ''.startswith.__self__ }}",
    "{{ none.__class__ }}{{ true.__class__ }}{{ 1 .real.__class__ }}{{ (1.5).hex }}",
)  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_but_the_messages_can_be_reached(source):
    messages = [dict(message) for message in MESSAGES]
    try:
        text = compiled(source)(messages=messages)
    except Exception:
        text = ""
    assert not any(leak in text.lower() for leak in LEAKS), text
    assert messages == MESSAGES, "messages stay as they are"


def test_there_are_many_of_them():
    assert len(ESCAPES) >= 30 and len(set(ESCAPES)) == len(ESCAPES)


DOUBLED = "{% set ns = namespace(x=START) %}{% for i in range(40) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x|length }}"


def doubled(start: str, step: str) -> str:
    return DOUBLED.replace("START", start).replace("STEP", step)


BOMBS = (
    "{{ 'a' * 10 ** 10 }}",
    "{{ [0] * 10 ** 10 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 2 ** 64 ** 2 ** 2 ** 2 ** 2 ** 2 ** 2 ** 2 }}",
    "{{ 'a'.ljust(10 ** 9) }}",
    "{{ 'a'|center(10 ** 9) }}",
    "{{ 'a'|indent(10 ** 9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ 1.5|round(1000000000) }}",
    "{{ messages|tojson(indent=1000000000) }}",
    "{{ range(10 ** 9)|list }}",
    "{{ range(10 ** 9)|sum }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) if range(99999)|sum == 1 %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "{% set x %}{% for a in range(99999) %}{{ messages }}{% endfor %}{% endset %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    doubled("'a'", "ns.x ~ ns.x"),
    doubled("'a'", "ns.x + ns.x"),
    doubled("'a'", "ns.x * 2"),
    doubled("'a'", "ns.x|replace('a', 'aa')"),
    doubled("'a'", "ns.x.replace('a', 'aa')"),
    doubled("'a'", "[ns.x, ns.x]|join"),
    doubled("'a'", "''.join([ns.x, ns.x])"),
    doubled("'a'", "'{0}{0}'.format(ns.x)"),
    doubled("'a'", "'%s%s' % (ns.x, ns.x)"),
    doubled("['a']", "ns.x + ns.x"),
    doubled("['a']", "[ns.x, ns.x]"),
    doubled("['a']", "(ns.x, ns.x)"),
    doubled("['a']", "{'a': ns.x, 'b': ns.x}"),
    doubled("['a']", "dict(a=ns.x, b=ns.x)"),
    "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{{ [ns] }}",
    "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "{{ " + "-" * 50_000 + "1 }}",
    "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "{{ 'a'|int }}" + " " * MAX_SOURCE,
)


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_every_template_ends_soon_and_small(source, monkeypatch):
    monkeypatch.setattr(jinja_values, "MAX_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(Exception):  # noqa: B017
        compiled(source)(messages=MESSAGES)
    assert time.monotonic() - start < 4


WORKS = (
    "{% for m in messages %}{{ m['role'] ~ ':' + (m.content if m.content is string else '?') }}\n{% endfor %}",
    "{%- for m in messages if m.role != 'system' -%}{{ loop.index0 }}/{{ loop.length }}{{ loop.last }}{%- endfor -%}",
    "{% for part in messages[1].content | selectattr('type', 'equalto', 'text') %}{{ part.text | trim }}{% endfor %}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages[1:][0].role }}{{ messages[-1]['content'][:3] }}",
    "{{ messages | tojson }}{{ {'b': [1, 'ä<&>'], 'a': None} | tojson(indent=2, sort_keys=true) }}",
    "{{ messages | tojson(separators=(',', ':'), ensure_ascii=true) }}",
    "{% set ns = namespace(seen=false, last=none) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.seen = true %}{% set ns.last = loop.index %}{% endif %}{% endfor %}{{ ns.seen }}{{ ns.last }}",
    "{% set ns = namespace(x=none) %}{{ ns.x is none }}{{ ns.y is defined }}",
    "{% macro line(text, end='|') %}{{ text | upper }}{{ end }}{% endmacro %}{{ line('a') }}{{ line('b', end='') }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{{ rest | length }}",
    "{{ 'a b'.split(' ')[-1].strip().title() }}{{ 'x'.startswith('x') }}{{ 'think</think>end'.split('</think>')[-1] }}",
    "{{ 'a{}b{}'.format(1, 'c') }}{{ '%s-%02d' % ('a', 7) }}{{ '%s' | format('a') }}",
    "{{ [1, 2] + [3] }}{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 3 }}{{ -1 }}{{ 3 * 'ab' }}{{ 1 / 2 }}{{ 5 - 2 }}",
    "{{ messages[0].get('name', 'none') }}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ messages[0] | items | list }}{{ dict(a=1) | dictsort }}{{ {'a': 1}.keys() | list }}",
    "{{ missing is defined }}{{ missing | default('d') }}{{ missing }}{{ none }}{{ 'x' in ['x'] }}",
    "{% set text %}a{{ 1 }}{% endset %}{{ text | indent(4, first=true) }}{{ text | replace('a', 'b') }}",
    "{% for i in range(3) %}{{ i }}{{ loop.cycle('a', 'b') }}{% endfor %}{% set j = joiner(',') %}{{ j() }}a{{ j() }}",
    "{{ [3, 1, 2] | sort | reverse | list }}{{ [1, 2] | sum }}{{ [1, 2] | max }}{{ 1.55 | round(1) }}{{ '7' | int }}",
    "{{ messages | selectattr('role', 'in', ['user']) | list | length }}{{ messages | rejectattr('role', 'eq', 'user')"
    " | map(attribute='role') | list }}",
    "{% macro outer() %}[{{ caller() }}]{% endmacro %}{% call outer() %}x{% endcall %}",
    "{% filter upper %}a{% endfilter %}",
    "{{ 'abc'[::-1] }}{{ messages[1]['content'][0]['type'] }}{{ messages.0.role }}",
    "{% for m in messages %}\n  {% if true %}\n  {{- m.role }}\n  {%- endif %}\n{% endfor %}\n",
    "{{ '<b>' | e }}{{ '<b>' | safe }}{{ 'a\nb' | trim | length }}{{ 'word word' | wordcount }}",
    "{{ true and 'x' or 'y' }}",
    "{{ strftime_now('%Y') | length }}{{ 'A' | lower ~ 'b' | capitalize }}{{ ['a', 'a'] | unique | list }}",
)


@pytest.mark.parametrize("source", WORKS)
def test_what_published_templates_use_is_written_as_transformers_writes_it(source):
    from transformers.utils.chat_template_utils import render_jinja_template

    ((wanted,), _) = render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=True)
    assert compiled(source)(messages=MESSAGES, add_generation_prompt=True, tools=None, documents=None) == wanted


def test_answers_are_marked_by_their_tag():
    text = compiled("a{% generation %}b{{ 1 }}{% endgeneration %}c")()
    assert text == f"a{GENERATION_START}b1{GENERATION_END}c"


def test_a_template_can_refuse():
    with pytest.raises(Refusal, match="roles must alternate"):
        compiled("{{ raise_exception('roles must alternate') }}")()


def test_runs_are_counted_apart():
    template = compiled("{% for i in range(2000) %}{{ i }}{% endfor %}")
    assert len({template() for _ in range(5)}) == 1
