#!/usr/bin/env python3
"""Make cases.json: what jinja2 renders, set up as transformers sets it up.

    python3 -m venv V && V/bin/pip install jinja2==3.1.6 transformers==5.23.0 && V/bin/python remake.py

Each template's output is also compared with that of transformers' own render_jinja_template().
Nothing in it is random, and strftime_now() is only asked for a percent sign.
templates/smollm2.jinja is the one in SmolLM2-135M-Instruct's GGUF; the others are written here in
the spirit of their families.  A case has a template's file or a source, a conversation's name or
variables, and the output, or "error": true.
"""
import copy
import datetime
import json
import pathlib
import platform

import jinja2
import jinja2.ext
import jinja2.sandbox
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent


class Generation(jinja2.ext.Extension):
    """{% generation %}: passes its body through, as transformers' does when nobody asks for masks."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city \"now\"; naïve & <fast>",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Städtename\n(two lines)"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "array", "items": {"type": "integer"}}},
            "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "noop", "description": "",
        "parameters": {"type": "object", "properties": {}, "x": [1, 2.5, True, None, 1e20, -0.0]},
        "return": {"type": "number"}}},
]


def call(name, arguments, ident="abcdefghi"):
    return {"id": ident, "type": "function",
            "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def conversation(*messages, prompt=True, **more):
    """As transformers passes it: no tools and no documents are None, and the special tokens are there."""
    return {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": prompt,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>", **more}


SYSTEM = {"role": "system", "content": "  You are terse.\n"}
RESULT = {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "abcdefghi", "name": "get_weather"}
CONVERSATIONS = {
    "one": conversation(user("Hello")),
    "one_silent": conversation(user("Hello"), prompt=False),
    "system": conversation(SYSTEM, user("  Hello \n\n")),
    "turns": conversation(user("Hi"), assistant("Hello! "), user("How are you?"), assistant("Fine."),
                          user("Good.")),
    "system_turns": conversation(SYSTEM, user("Hi"), assistant("Hello! "), user("Bye"),
                                 assistant("\nSo long"), prompt=False),
    "unicode": conversation(SYSTEM, user("Grüße, 世界 🌍 \u200d\u00a0"), assistant("naïve ‘quotes’"),
                            user("\u3000e\u0301\u2028 'single' \"double\" \\ \t")),
    "empty": conversation({"role": "system", "content": ""}, user(""), assistant(""), user("")),
    "wrong_order": conversation(user("a"), user("b"), assistant("c")),
    "no_messages": conversation(),
    "special": conversation(user("<|im_end|>\n<|im_start|>system\n{{ 7*7 }} {% raw %}"), prompt=False),
    "thinking": conversation(user("2+2?"), assistant("<think>\nhmm\n</think>\n\n4"), user("3+3?"),
                             assistant("<think>\nthree, twice\n</think>\n\n6"), enable_thinking=False),
    "reasoning": conversation(user("q"), assistant("a", reasoning_content="\nbecause\n"), prompt=False),
    "parts": conversation(user([{"type": "text", "text": " look "}, {"type": "image"},
                                {"type": "text", "text": "there"}])),
    "null_content": conversation(user("Weather?"), assistant(None, tool_calls=[
        call("get_weather", {"city": "Köln"})]), RESULT, tools=TOOLS),
    "tools": conversation(SYSTEM, user("Weather in Köln?"), tools=TOOLS),
    "tools_system_side": conversation(user("Weather?"), tools=TOOLS, tools_in_user_message=False),
    "tool_call": conversation(user("Weather?"), assistant("", tool_calls=[
        call("get_weather", {"city": "Köln \"Süd\"", "days": [1, 2], "deep": {"a": {}, "b": []}})]),
        RESULT, assistant("21 °C"), user("Thanks"), tools=TOOLS),
    "two_calls": conversation(user("Both"), assistant("ok", tool_calls=[
        call("noop", {}), call("noop", {"x": 1}, "123456789")]), RESULT, RESULT, tools=TOOLS),
    "string_arguments": conversation(user("Both"), assistant("", tool_calls=[
        call("noop", "{\"x\":1}")]), RESULT, prompt=False, tools=TOOLS),
    "builtin": conversation(SYSTEM, user("Search"), assistant("", tool_calls=[
        call("search", {"query": "x", "n": "3"})]), user("?"),
        builtin_tools=["search", "code_interpreter"], date_string="1 Jan 2025"),
    "system_parts": conversation({"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                                 user([{"type": "text", "text": "Hi "}, {"type": "text", "text": " there"}]),
                                 assistant([{"type": "text", "text": "Hello"}]), user("Bye")),
    "documents": conversation(user("q"), documents=[{"title": "t", "text": "d1"}, {"title": "u", "text": "d2"}],
                              controls={"citations": True, "length": "short"}),
    "documents_tools": conversation(user("q"), documents=[{"title": "t", "text": "d1"}], tools=TOOLS),
    "no_think": conversation({"role": "system", "content": "/no_think Be nice. "}, user("q"), assistant("\n\na"), user("r"),
                             python_tools=["def f(): ...", "g"], tools=TOOLS),
    "override": conversation({"role": "system", "content": "Only this. /system_override \n"}, user("q"), prompt=False),
    "short_id": conversation(user("q"), assistant(None, tool_calls=[call("noop", {}, "x")]), RESULT, tools=TOOLS),
    "tool_numbers": conversation(user("q"), assistant(None, tool_calls=[call("noop", {"x": 1.0, "y": 1e-7, "z": 12345678901234567890.0})]),
                                 {"role": "tool", "content": {"content": 21}, "tool_call_id": "abcdefghi"}, tools=TOOLS),
    "system_tools": conversation({"role": "system", "content": "s", "tools": "[{\"name\": \"f\"}]"}, user("q")),
}

DATA = {"x": 5, "y": -7, "f": 2.5, "s": "Hello, World", "u": "größe ÉÀ 世界🌍", "n": None, "t": True,
        "l": [3, 1, 2], "e": [], "d": {"b": 1, "a": [1, "two", None, 3.0], "items": 7, "Z": {}},
        "m": [{"k": "b", "v": 2, "in": {"z": 1}}, {"k": "A", "v": 1}, {"k": "c", "v": 2, "in": {"z": 0}}],
        "html": "<a href='x'>&\"</a>", "lines": "one\ntwo\n\n  three\r\nfour", "o": {}, "big": 2**53 + 1,
        "q": "it's", "qq": "it's \"both\"", "bs": "a\\b\tc\x01\x7f\u00ad\u2028", "sp": " \t a  b \n"}

# One case a line; a list of sources sharing DATA.
EXPRESSIONS = r"""
{{ "<"|safe + "<" }} {{ "<" + "<"|e }} {{ ("<"|safe + html) is escaped }} {{ "<"|safe * 2 + "'" + "\"" }} {{ "<"|safe ~ "<" }} {{ 2 * "&"|safe + "&" }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ 0.1 + 0.2 }} {{ 1/3 }} {{ 100.0 }} {{ 1e15 }}
{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_0.5_0 }}
{{ x ~ y ~ f ~ n ~ t ~ l ~ nope ~ 'z' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ (1,) == [1] }} {{ none == none }} {{ 1 != 2 }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 3 in l }} {{ 'a' in d }} {{ 'q' in d }} {{ 1 in (1, 2) }} {{ '' in '' }} {{ nope in l }} {{ 1 in nope }}
{{ not x }} {{ x and y }} {{ n or 'alt' }} {{ '' or [] or 0 }} {{ x and not n }} {{ not not x }} {{ not x == 5 }}
{{ 'yes' if x > 3 else 'no' }} {{ 'yes' if n }}|{{ ('a' if n) is defined }} {{ 1 if n else 2 if n else 3 }}
{{ l[0] }} {{ l[-1] }} {{ l[9] }}| {{ l.0 }} {{ d.a.1 }} {{ d['a'][0] }} {{ s[1] }} {{ u[-1] }} {{ u[2] }} {{ l['x'] }}|{{ n.x }}|{{ x.y }}|{{ l[true] }}
{{ d['items'] }} {{ d.b }} {{ d.missing }}| {{ d.missing is defined }} {{ d['Z'] }} {{ d.get('b') }} {{ d.get('no') }} {{ d.get('no', 4) }}
{{ s[1:4] }} {{ s[::-1] }} {{ s[-5:] }} {{ s[:100] }} {{ s[5:2] }}| {{ u[1:3] }} {{ u[::2] }} {{ l[1:] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[::2] }} {{ l[5:] }} {{ (1,2,3)[1:] }} {{ l[2:0:-1] }} {{ s[-100:3] }} {{ s[none:2] }}
{{ [1, 'a', none, true, 2.0, [], {}, ()] }} {{ (1,) }} {{ () }} {{ {'a': 1, 2: 'b', none: (1, 2)} }} {{ 1, 2 }} {{ [1, 2,] }} {{ {'a': 1, 'a': 2} }}
{{ d }} {{ m }} {{ [q, qq, bs, html] }} {{ [u] }} {{ ['\x7f', '\u200b', '\U0001f30d', 'é', '\xa0'] }}
{{ 'a' 'b' "c" }} {{ '\n\t\\ \' \x41 \u00e9 \101 \d' }} {{ "dq\"" }}
{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ u.lower() }} {{ 'hello world-foo it\'s'.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'straße'.upper() }}
{{ sp.strip() }}| {{ sp.lstrip() }}| {{ sp.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'abcab'.strip('ba') }} {{ 'abc'.strip('') }} {{ 'éaé'.strip('é') }} {{ 'x'.strip(none) }} {{ '\u3000x\u2003'.strip() }}|
{{ s.split(', ') }} {{ s.split() }} {{ ' a  b '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a b  c '.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b '.split(maxsplit=1) }} {{ 'x'.split(sep='y') }}
{{ s.startswith('Hell') }} {{ s.endswith(('d', 'x')) }} {{ s.startswith('') }} {{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'abc'.replace('', '-') }} {{ 'é'.replace('', '-') }}
{{ s.find('o') }} {{ u.find('世') }} {{ s.find('zz') }} {{ s.count('l') }} {{ ', '.join(['a', 'b']) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('bc') }} {{ '12'.isdigit() }} {{ 'a1'.isalpha() }} {{ ' '.isspace() }} {{ 'a=b=c'.partition('=') }} {{ lines.splitlines() }}
{{ d.keys() }} {{ d.values()|list }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {{ d.keys()|list|length }} {{ d.items()|length }} {{ l.index(2) }} {{ l.count(1) }} {{ l.copy() }}
{{ d|tojson }} {{ d|tojson(indent=2) }} {{ html|tojson }} {{ u|tojson }} {{ bs|tojson }} {{ [1.0, 1e100, true, none]|tojson }} {{ []|tojson(indent=1) }} {{ {}|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ bs|tojson(ensure_ascii=true) }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(sort_keys=true) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ (1, 2)|tojson }} {{ [1,[2]]|tojson(indent='--') }} {{ {'a':[]}|tojson(indent=0) }}
{{ sp|trim }}| {{ 'xax'|trim('x') }} {{ 5|trim }} {{ nope|trim }}| {{ n|trim }}
{{ nope|default('D') }} {{ n|default('D') }} {{ n|default('D', true) }} {{ ''|d('E', boolean=true) }} {{ nope|default }}| {{ d.no|default([])|length }} {{ 0|default(1) }}
{{ l|join(', ') }} {{ l|join }} {{ m|join('-', attribute='k') }} {{ s|join('.') }} {{ [none, 1.5, 'a']|join('/') }} {{ nope|join(',') }}|
{{ s|upper }} {{ s|lower }} {{ "it's a foo-bar (baz) <q>"|title }} {{ 'ABC def'|capitalize }} {{ 12|upper }}
{{ s|length }} {{ u|length }} {{ l|count }} {{ d|length }} {{ nope|length }} {{ l|first }} {{ l|last }} {{ e|first }}| {{ s|first }} {{ u|last }} {{ d|first }} {{ range(3)|last }}
{{ 'abc'|list }} {{ d|list }} {{ l|string }} {{ 5|string ~ 1 }} {{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ '0x1f'|int(base=16) }} {{ 3.9|int }} {{ none|int }} {{ ' 7 '|int }} {{ '1_0'|int }} {{ '-3'|int }} {{ '2.5'|float }} {{ 'x'|float }} {{ '1e3'|float }} {{ 'x'|float(1) }} {{ true|int }}
{{ -3|abs }} {{ (-3)|abs }} {{ y|abs }} {{ -2.5|abs }} {{ 2.567|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.1|round(method='ceil') }} {{ 2.19|round(1, 'floor') }} {{ 3|round }}
{{ s|replace('o', '0') }} {{ s|replace('o', '0', 1) }} {{ 123|replace(2, 'x') }}
{{ m|map(attribute='k')|list }} {{ m|map(attribute='in', default='-')|list }} {{ ['a','b']|map('upper')|join }} {{ ['1','2']|map('int')|sum }} {{ [[1,2],[3,4]]|map(attribute=1)|list }} {{ [[1,2],[3]]|map('length')|list }} {{ ['ab']|map('replace', 'a', 'c')|first }} {{ n|map('upper')|list }}
{{ m|selectattr('in')|map(attribute='k')|join }} {{ m|selectattr('v', '==', 2)|list|length }} {{ m|rejectattr('v', 'equalto', 2)|map(attribute='k')|first }} {{ m|selectattr('in', 'defined')|list|length }} {{ m|selectattr('k', 'in', ['b', 'c'])|map(attribute='v')|list }} {{ m|rejectattr('in')|list }}
{{ [0,1,2,3]|select|list }} {{ [0,1,2,3]|select('odd')|list }} {{ range(10)|reject('divisibleby', 3)|list }} {{ [1,'a',none]|select('string')|list }} {{ [1,2,3]|select('gt', 1)|list }} {{ e|select('odd')|list }}
{{ d|items|list }} {{ d|dictsort }} {{ d|dictsort(reverse=true)|first }} {{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'A': 2}|dictsort(by='value') }} {{ nope|items|list }}
{{ [1,2,1,3]|unique|list }} {{ ['a','A','b']|unique|list }} {{ ['a','A']|unique(true)|list }} {{ l|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ l|sort }} {{ l|sort(reverse=true) }} {{ ['b','A','c']|sort }} {{ ['b','A','c']|sort(case_sensitive=true) }} {{ m|sort(attribute='v')|map(attribute='k')|list }} {{ m|sort(attribute='v', reverse=true)|map(attribute='k')|list }} {{ l|min }} {{ l|max }} {{ m|max(attribute='v') }} {{ e|min }}| {{ l|sum(start=10) }} {{ m|sum('v') }}
{{ lines|indent }} {{ lines|indent(2, true) }} {{ lines|indent(width=1, blank=true) }} {{ lines|indent('> ', first=true) }} {{ ''|indent }}|
{{ html|safe }} {{ html|e }} {{ html|escape|e }} {{ html|e|length }} {{ 5|e }}
{{ x is defined }} {{ nope is undefined }} {{ n is none }} {{ s is string }} {{ x is number }} {{ t is number }} {{ t is integer }} {{ x is integer }} {{ f is float }} {{ d is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ x is iterable }} {{ d.keys() is sequence }} {{ t is boolean }} {{ t is true }} {{ 1 is true }} {{ false is false }} {{ 4 is even }} {{ 4 is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 2 is in [1,2] }} {{ x is not none }} {{ x is equalto 5 }} {{ 'a' is lower }} {{ 'A1' is upper }} {{ x is sameas x }} {{ nope is iterable }} {{ nope is none }} {{ range is callable }} {{ 2 is gt 1 and 1 is lt 2 }} {{ 'upper' is filter }} {{ 'odd' is test }}
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(3) }} {{ range(0)|length }} {{ range(3)[1] }} {{ range(1, 9, 3) }} {{ 2 in range(3) }} {{ range(9)[2:7:2] }} {{ range(4)[::-1] }} {{ nope|last }}|
{{ dict(a=1, b='x') }} {{ dict({'a': 1}, b=2) }} {{ namespace(a=1).a }} {{ namespace({'b': 2}).b }} {% set ns = namespace(n=0) %}{% for i in l %}{% set ns.n = ns.n + i %}{% set ns.last = i %}{% endfor %}{{ ns.n }} {{ ns.last }} {{ ns.no }}|
{{ 'a' * 3 }} {{ 2 * [1] }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }} {{ 'x' * 0 }}| {{ 'x' * -1 }}| {{ true + 1 }} {{ +x }} {{ - -x }} {{ -f }} {{ big }} {{ 4 / 2 }} {{ 2 * 1.5 }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};{% endfor %}
{% for i in [1,2,3,4] if i is even %}{{ i }}/{{ loop.length }} {% else %}none{% endfor %}{% for i in e %}{{ i }}{% else %}empty{% endfor %}{% for i in [1,2] %}{% continue %}{% else %}quirk{% endfor %}{% for i in [1,2] %}{% break %}{% else %}quirk2{% endfor %}
{% for a, b in [[1,2],[3,4]] %}{{ a }}{{ b }}{% endfor %} {% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for c in 'héy' %}{{ c }}.{% endfor %} {% for k in d %}{{ k }},{% endfor %} {% for i in nope %}x{% endfor %} {% for i in 1, 2 %}{{ i }}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ j }}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}
{% set a = 1 %}{% for i in [1,2] %}{% set a = a + 10 %}{{ a }} {% endfor %}{{ a }} {% if true %}{% set a = 5 %}{% set b = 6 %}{% endif %}{{ a }}{{ b }} {% set p, q2 = 1, (2, 3) %}{{ p }}{{ q2 }} {% set (p, r) = [8, 9] %}{{ p }}{{ r }}
{% for i in [1,2] %}[{{ z }}]{% set z = i %}[{{ z }}]{% endfor %}[{{ z }}]
{% set b %}  text {{ x }}{% set inner = 1 %} {% endset %}[{{ b }}][{{ inner }}]{% set c | upper | trim %} abc {% endset %}[{{ c }}]{{ b is string }}
{% macro f(a, b='B', c=a) %}({{ a }}{{ b }}{{ c }}{{ z }}){% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}{{ f(1, c=2)|length }}{% set z = 'late' %}{{ f(1) }}{{ f(1)|upper ~ f(2) }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * fact(n - 1)|int }}{% endif %}{% endmacro %}{{ fact(6) }}{% macro none_() %}{% endmacro %}[{{ none_() }}]{% for i in [1] %}{% macro g() %}{{ i }}{% endmacro %}{{ g() }}{% endfor %}
{% with a = 1, b = x %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}{{ a }}{{ c }}| {% filter upper %}abc {{ s }}{% endfilter %} {% generation %}{% set g = 1 %}gen {{ x }}{% endgeneration %}[{{ g }}]
{% if n %}1{% elif x == 5 %}2{% elif t %}3{% else %}4{% endif %} {% if 0 %}{% elif '' %}{% else %}e{% endif %} {% if nope %}u{% endif %}
{{ m|selectattr('v', 'eq', 9) is defined }} {{ 'T' if m|selectattr('v', 'eq', 9) else 'F' }} {{ 'T' if m|selectattr('v', 'eq', 9)|list else 'F' }} {% set it = l|map('string') %}{{ it|join }}{{ it|join }}| {{ l|reverse|first }}
{{ {'a': {'b': [1, {'c': 'deep'}]}}.a.b[1].c }} {{ [[1]][0][0] }} {{ ({'k': 'v'})['k'] }} {{ {}.x }}| {{ ('a', 'b')[1] }} {{ {'}}': '%}'}['}}'] }} {{ {"a":{"b":{}}} }}
{# comment {{ x }} #}a{#- strip -#} b {#+ keep +#} c{# #}{{ '{#' }}{% raw %}{{ x }}{% if %}{# #}{% endraw %}{%- raw -%}  r  {%- endraw -%} z
{{ none }} {{ None }} {{ True }} {{ false }} {{ nope }}| {{ [nope] }} {{ 1.0 }} {{ -0.0 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1e22 }}
{{ x|string|length }} {{ (x + 1)|string }} {{ x + 1|int }} {{ 'a' ~ 1 * 2 }} {{ 1 ~ 2 * 3 }} {{ not x is none }} {{ x is none or t }} {{ 'a' in 'abc' and 'b' not in 'xyz' }} {{ -x|abs }} {{ 5 - -3 }}
""".strip("\n").split("\n")

WHITESPACE = [
    "a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\n  {%+ if true %}\nb\n  {%+ endif +%}\nc\n\n",
    "  {% set a = 1 %}  \n x", "x {% set a = 1 %}\n y", "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "\n\n{{ 1 }}\n\n", "{{ 1 }}\n", "{{ 1 }}\r\n{{ 2 }}\r{{ 3 }}\r\n", "", "\n", "\n\n", "  ", "{{- 1 -}}  a {{- 2 }} b",
    "a {{- 1 -}} \n", "a  {{+ 1 }} b", "  {{ 1 }}\n  {{ 2 }}\n", "  {# c #}\n  x\n", "x {# c #}\ny", "  {#- c -#}  \n x",
    "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\nend", "{% for i in [1,2] -%}\n  {{ i }}\n{%- endfor %}\nend",
    "{% if true %}\n\nx\n{% endif %}\n\ny", "{% if true %}x{% endif %}{% if true %}\n  {% endif %}\n  z",
    "a\n\t {% if true %} b {% endif %} \n c", "{%if true%}t{%endif%}", "{%- if true -%}t{%- endif -%}",
    "  {% raw %}  {{ x }}\n  {% endraw %}\n  y", "  {%- raw %}\n a {% endraw -%}  \n b", "{% if true +%}\n x {% endif %}",
    "{{ '  a\n\n' }}\n\n\n", "{% set x %}\n  a\n{% endset %}[{{ x }}]", "\u00a0{% if true %}\u3000{%- endif %}\n\u2003{{- 1 }}",
    "{% macro m() -%}\n  x\n{%- endmacro %}\n[{{ m() }}]", "{{ \"a\\\nb\" }}", "{{ 'multi\r\nline' }}", "{% generation %}\n a\n{% endgeneration %}\nb",
    "   {{- 1 }}   {%- if true %} {%- endif %}   {{ 2 -}}   \n\n 3", "a{#\n\n#}\n b{# x -#}\n c", "{{ 1 }}{% if true %}\n{% endif %}\n{{ 2 }}", "{", "{ {", "a }} b %} c #}", "{{ '}}' }}{{ \"%}\" }}",
]

ERRORS = r"""
{{ nope.x }}
{{ d.no.x }}
{{ n.x.y }}
{{ nope() }}
{{ nope + 1 }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ [] + () }}
{{ 1 < 'a' }}
{{ x() }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ none|length }}
{{ 5|list }}
{{ none|join }}
{{ x in 5 }}
{{ 1 in s }}
{{ s|nosuchfilter }}
{{ s is nosuchtest }}
{{ raise_exception('told so') }}
{{ [1, 'a']|sort }}
{{ l.append(4) }}
{{ d.update({}) }}
{{ d.pop('a') }}
{{ s.nosuch() }}
{{ s.split('') }}
{{ s.startswith(1) }}
{{ nope|tojson }}
{{ range|tojson }}
{{ d|tojson(bad=1) }}
{{ x|default(1, 2, 3) }}
{{ s|replace('a') }}
{{ range() }}
{{ range(1, 2, 0) }}
{{ range(1000000) }}
{{ 'a' * 'b' }}
{{ s[::0] }}
{{ s['a':] }}
{{ x[1:] }}
{{ d[1:] }}
{{ -s }}
{{ {[]: 1} }}
{{ m|map(attribute='in.z')|map('abs')|list }}
{{ m|selectattr('in.z')|list }}
{{ m|map('nosuch')|list }}
{{ l|select('nosuch')|list }}
{{ (l|map('string'))|length }}
{{ l|reverse|last }}
{{ 5|items|list }}
{{ m|indent }}
{{ nope|indent }}
{{ 5|dictsort }}
{{ d|dictsort(by='x') }}
{{ 'a' is divisibleby 2 if false else none is odd }}
{{ 1
{{ 1 }
{{ }}
{% if %}{% endif %}
{% if x %}
{% endif %}
{% for x %}{% endfor %}
{% for x in l %}
{% for true in l %}{% endfor %}
{% for a, b in l %}{% endfor %}
{% for a, b in [[1,2,3]] %}{% endfor %}
{% for a in 5 %}{% endfor %}
{% set x.y = 1 %}
{% set true = 1 %}
{% set a, b = 1 %}
{% set a, b = [1] %}
{% set = 1 %}
{% nosuch %}
{% break %}
{% for i in l %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}
{% macro f(a=1, b) %}{% endmacro %}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=2) }}
{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{% macro f(a) %}{{ a.b }}{% endmacro %}{{ f() }}
{# never ends
{% raw %} never ends
{{ 'never ends }}
{{ x y }}
{{ x | }}
{{ x. }}
{{ [1, 2 }}
{{ (1, 2] }}
{{ {'a' 1} }}
{{ x is defined is defined }}
{{ f(a=1, 2) }}
{{ x = 1 }}
{{ x ! y }}
{{ x & y }}
{{ '\x4' }}
{{ loop.index }}
{% else %}
{% include 'x' %}
{% generation %}
{% with a = 1 %}{{ a }}
{{ namespace(1) }}
{{ x if }}
{{ x.y.z }}
{{ 2 ** 'a' }}
{{ none + none }}
{{ none < 1 }}
{{ [none]|sum }}
{% do x %}
{{ a {{- 1 +}}
{{ 1 +}}
{{ 'a' ~ 1 + 2 }}
{{ d.get('b', default=4) }}
{{ s.strip(chars='x') }}
{{ d.keys()[0].x }}
{{ @ }}
""".strip("\n").split("\n")


def render(env, source, variables):
    try:
        # a copy: Jinja's filter indent adds to a list that it is given in place
        return {"output": env.from_string(source).render(**copy.deepcopy(variables))}
    except Exception as error:  # jinja2 lets Python's own through
        return {"error": True, "says": "%s: %s" % (type(error).__name__, str(error)[:80])}


def check_transformers(source, variables, case):
    """transformers gives the same text, or an error where we have one."""
    try:
        rest = {k: v for k, v in variables.items() if k != "messages"}
        text = chat_template_utils.render_jinja_template([variables["messages"]], chat_template=source, **rest)[0][0]
    except Exception:
        text = None
    if text != case.get("output"):
        raise SystemExit("transformers gives %r, not %r" % (text, case))


def main():
    env = environment()
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_bytes().decode()
        for name, variables in CONVERSATIONS.items():
            case = render(env, source, variables)
            check_transformers(source, variables, case)
            cases.append({"template": path.name, "conversation": name, **case})
    for source in EXPRESSIONS + WHITESPACE + ERRORS:
        case = render(env, source, DATA)
        if ("error" in case) != (source in ERRORS):
            print("unexpected:", source, case)
        cases.append({"source": source, **case})
    # one line each, so that a change of one case is a change of one line
    text = ['{"made_by": "remake.py, jinja2 %s, Python %s",' % (jinja2.__version__,
                                                                platform.python_version())]
    text.append('"data": %s,' % json.dumps(DATA, ensure_ascii=False))
    text.append('"conversations": {')
    text.append(",\n".join("%s: %s" % (json.dumps(k), json.dumps(v, ensure_ascii=False))
                           for k, v in CONVERSATIONS.items()))
    text.append('},\n"cases": [')
    text.append(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases))
    text.append("]}\n")
    (HERE / "cases.json").write_text("\n".join(text), newline="")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors")


if __name__ == "__main__":
    main()
