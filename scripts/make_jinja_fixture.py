"""Writes tests/fixtures/templates/expressions.json: what chat templates of transformers print, and which of them fail.

    python scripts/make_jinja_fixture.py     # needs transformers and jinja2
"""

import json
import pathlib

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).parent.parent / "tests/fixtures/templates/expressions.json"

CONTEXT = {
    "messages": [
        {"role": "user", "content": "Hello, World", "name": None},
        {"role": "assistant", "content": "a.b.c", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1, "y": [1.5, "z"]}}}]},
    ],
    "word": "prefix-body-suffix",
    "items": [3, 1, 2],
    "pair": {"b": 1, "a": "x"},
    "nothing": None,
    "number": 7,
    "real": 2.5,
    "yes": True,
}

# Python's operators and methods of texts.
TEXTS = """
'%s and %s' % ('a', 1)
'%s' % word
'%d%%' % 7
'%5.2f|%-6s|%06d|%+d|%x|%e' % (2.5, 'ab', 42, 3, 255, 12345.678)
'%(a)s-%(b)d' % pair
'%r' % 'x'
'%s' % [1, 'a', none]
'%s' % nothing
'%c' % 'x'
'{} {1}'.format(1, 2)
'{0}-{1}-{0}'.format('a', 'b')
'{name}: {n:>4}|{n:<4}|{n:^4}|{n:04d}'.format(name='x', n=7)
'{:.2f} {:,}'.format(3.14159, 1234567)
word.removeprefix('prefix-')
word.removeprefix('x')
word.removesuffix('-suffix')
word.rsplit('-', 1)
word.rsplit('-')
'  a b  c '.rsplit()
'  a b  c '.rsplit(none, 1)
word.split('-', 1)
'a  b'.split(' ')
'a b'.split(none, 1)
word.partition('-')
word.partition('x')|length
word.partition('?')|join('|')
word.rpartition('-')|join('|')
word.partition('-')[0]
word.index('b')
word.rindex('-')
word.index('?')
word.find('?')
word.rfind('-')
word.count('-')
'7'.zfill(3)
'-7'.zfill(4)
'+7'.zfill(5)
'ab'.center(7, '*')
'ab'.ljust(4) ~ '|'
'ab'.rjust(4) ~ '|'
'aB'.swapcase()
'Straße'.casefold()
'hello world'.title()
'hello world'.capitalize()
'HELLO'.lower()
' x '.strip() ~ ' x '.lstrip() ~ ' x '.rstrip() ~ '|'
'xxaxx'.strip('x')
'xyaxy'.lstrip('xy')
'a\\nb\\n'.splitlines()
'abc'.startswith('a') ~ 'abc'.endswith(('x', 'c'))
'abc'.startswith(('a', 'b'))
'aaa'.replace('a', 'b', 2)
'a-b'.replace('-', '')
'ab' 'cd'
'ab' * 3
'abc'[1:]
'abc'[::-1]
'abc'[-1]
'abc'[5:]
'abc'[0]
'abc'|length
'12'.isdigit() ~ 'a1'.isalnum() ~ 'a'.isalpha() ~ ' '.isspace() ~ 'A'.isupper() ~ 'a'.islower() ~ ''.isdigit()
','.join(['a', 'b'])
'a,b'.split(',')|join(' ')
'x' in 'xyz'
'x' not in 'abc'
'a' < 'b'
'a\\tb'.expandtabs(4)
'é'.encode('utf-8')|length
word.upper().lower()|title
""".strip()

# Numbers, lists, mappings and tests.
VALUES = """
items + [4]
items[1:]
items[::-1]
items[-1]
items|sort|join(',')
items|sort(reverse=true)|first
items.index(1)
items.count(1)
items|length
items|sum
items|min ~ items|max
items|last
items|reverse|list
items|unique|list
items|map('string')|join
items|select('gt', 1)|list
items|reject('odd')|list
items|batch(2)|list
items|slice(2)|list
items|random in items
[1, 2] + [3] == [1, 2, 3]
(1, 2)
(1,)
()
(1, 2) + (3,)
[(1, 'a'), (2, 'b')]
{'a': (1, 2)}
pair
pair.a
pair['b']
pair.get('z', 'd')
pair.get('z')
pair.items()|list
pair.keys()|list
pair.values()|list
pair|items|list
pair|dictsort
pair|length
'a' in pair
pair.z is defined
pair|tojson
items|tojson
messages[1].tool_calls|tojson
messages[1].tool_calls|tojson(indent=2)
'<é>&"'|tojson
nothing|tojson
true|tojson
2.0|tojson
messages|map(attribute='role')|join(',')
messages|selectattr('role', 'equalto', 'user')|list|length
messages|rejectattr('role', 'eq', 'user')|map(attribute='content')|first
messages|selectattr('tool_calls', 'defined')|list|length
messages|groupby('role')|length
messages[-1].content
messages[0].name
messages[0]['name'] is none
messages[1:]|length
loop is defined
7 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
2 ** 10
1 / 4
10 / 2
1e3
1.5e-7
0.1 + 0.2
3 == 3.0
1 < 2 < 3
not yes
yes and nothing
yes or nothing
nothing or 'x'
1 if yes else 2
1 if nothing
(number > 5)|string
number|float
'3'|int + 1
'x'|int
'x'|int(9)
real|round
real|int
2.567|round(2)
number|abs
number|string|length
'%.2f' % real
yes|string
nothing|string
nothing is none
number is number
number is integer
real is float
'x' is string
items is iterable
items is sequence
pair is mapping
yes is boolean
yes is true
number is odd
number is even
number is divisibleby 7
number is sameas 7
'a' is lower
'A' is upper
'x' is in 'xyz'
range is callable
items is callable
raise_exception is defined
range(3)|list
range(2, 8, 3)|list
range(3)
namespace(a=1).a
dict(a=1, b=2)
cycler('a', 'b').next()
lipsum is defined
'a b c'|wordcount
'abc def ghi'|truncate(7)
'abc def ghi jkl'|truncate(9, true, '..', 0)
'ab'|center(6) ~ '|'
'a b&c/é'|urlencode
'<b>'|escape
'<b>'|e
'<b>x</b>'|striptags
'a\\nb'|indent(2)
'a\\nb'|indent(2, true)
'x'|default('d')
''|default('d', true)
'abc'|list
'abc'|reverse
'abc'|first
'HELLO'|capitalize
'hello world'|title
'ab'|replace('a', 'c')
'  x '|trim ~ '|'
'a'|upper
'%s-%s'|format('a', 1)
1024|filesizeformat
'a b c d'|wordwrap(3)
[1, [2, 3]]
[none, true, 1.0, 'x\\'y']
{'a': none}
'a' ~ none ~ 1.0 ~ true
[]|first is defined
[[1, 2], [3]]|sum(start=[])
""".strip()

# What is undefined: empty when printed, an error when something is asked of it.
UNDEFINED = """
missing
missing.x
missing['x']
missing()
missing + 1
missing + 'a'
'a' ~ missing
missing|length
missing|upper
missing|join(',')
missing|first
missing|last
missing|list
missing|default('d')
missing|trim
missing|replace('a', 'b')
missing|tojson
missing|string
missing|int
missing|float
missing|map('upper')|list
missing|selectattr('a')|list
missing|items|list
missing|sort
missing|reverse|list
missing|unique|list
missing|sum
missing == 1
missing == missing
missing != none
missing < 1
missing is none
missing is string
missing is defined
missing is mapping
missing is iterable
missing is sequence
missing is number
missing in ['a']
'a' in missing
not missing
missing or 'x'
missing and 'x'
1 if missing else 2
-missing
missing[1:]
missing * 2
missing % 2
'%s' % missing
'{}'.format(missing)
[missing]
{'a': missing}
pair.z
pair.z.y
pair['z']
messages[0].tool_calls
messages[0].tool_calls|length
messages[9]
messages[9].role
'abc'.nothing
'abc'.nothing()
items.x
number.x
nothing.x
nothing.x.y
nothing['x']
nothing + 'a'
nothing|length
nothing|upper
nothing|trim
nothing|list
nothing in 'a'
'a' in nothing
""".strip()

STATEMENTS = [
    "{% for x in missing %}x{% else %}none{% endfor %}",
    "{% for x in items %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }} {% endfor %}",
    "{% for x in items if x > 1 %}{{ x }}{% endfor %}",
    "{% for x in items %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in items %}{% if loop.index == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in items %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{% endfor %}",
    "{% for k, v in pair.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in pair %}{{ k }}{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}",
    "{% for c in 'abc' %}{{ c }}-{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in items %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
    "{% set x = 1 %}{% for y in items %}{% set x = 2 %}{% endfor %}{{ x }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}",
    "{% set text %}a{{ number }}{% endset %}{{ text|upper }}",
    "{% macro m(a, b='y') %}{{ a }}{{ b }}{% endmacro %}{{ m('x') }}{{ m('x', b='z') }}",
    "{% macro m() %}{{ varargs|join }}{{ kwargs.k }}{% endmacro %}{{ m('x', 'y', k='z') }}",
    "{% macro m() %}{{ late }}{% endmacro %}{% set late = 'v' %}{{ m() }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}",
    "{% if messages[0].role == 'user' and 'Hello' in messages[0].content %}y{% elif true %}n{% endif %}",
    "{% if missing %}a{% else %}b{% endif %}",
    "{% if missing is not defined %}a{% endif %}",
    "{% filter upper %}abc{% endfilter %}",
    "{% with x = 5 %}{{ x }}{% endwith %}{{ x }}",
    "a\n{% if true %}\n  b\n{% endif %}\nc",
    "a\n    {%- if true %}\n  b\n    {%- endif -%}\n c",
    "{# comment #}a{# \n #}b",
    "{% raw %}{{ x }}{% endraw %}",
    "{{ joiner(',')() }}{% set j = joiner(',') %}{{ j() }}a{{ j() }}b",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}",
    "{% for m in messages %}{{ m.content.split('.')[-1] if '.' in m.content else m.content }} {% endfor %}",
    "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else 'none' -%}{{ system }}",
    "{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }}{% endfor %}",
    "{% for c in messages[1].tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v|tojson if v is not string else v }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}",
    "{% for c in messages[1].tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments}|tojson }}{% endfor %}",
    "{{ raise_exception('no system role') }}",
    "{% generation %}a{% endgeneration %}b",
    "{% do items.append(1) %}{{ items }}",
    "{% set d = {} %}{% set _ = d.update({'a': 1}) %}{{ d }}",
    "{{ ''.__class__ }}",
]


def case(source):
    try:
        return {"source": source, "text": _compile_jinja_template(source).render(**CONTEXT)}
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError) as e:
        return {"source": source, "error": type(e).__name__}


def main():
    expressions = [line for part in (TEXTS, VALUES, UNDEFINED) for line in part.splitlines()]
    cases = [case("{{ " + expression.replace("\\n", "\n").replace("\\t", "\t") + " }}") for expression in expressions]
    cases += [case(source) for source in STATEMENTS]
    about = f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}; scripts/make_jinja_fixture.py"
    lines = ",\n".join(json.dumps(c) for c in cases)
    OUT.write_text(f'{{"about": {json.dumps(about)}, "context": {json.dumps(CONTEXT)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
