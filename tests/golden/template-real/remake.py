#!/usr/bin/env python3
"""Make cases.txt: digests of what jinja2 renders from the chat templates of released models.

    tests/golden/template-real/fetch FOLDER
    python3 -m venv V && V/bin/pip install jinja2==3.1.6 transformers==5.23.0
    V/bin/python remake.py FOLDER

jinja2 is set up as in ../template/remake.py, which also has the conversations; those that only such
templates tell apart are in conversations.json, by this script's hand.  The clock stands still.

    template SHA256 NAME            a template's file, and under it a case a line:
    CONVERSATION LENGTH DIGEST      bytes of the text, and the first 16 digits of its SHA-256
    CONVERSATION error              jinja2, or the template, refuses it
"""
import datetime
import hashlib
import importlib.util
import json
import pathlib
import platform
import sys

import jinja2

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2023, 11, 14, 22, 13, 20)  # Unix time 1700000000


def load_sibling():
    spec = importlib.util.spec_from_file_location("golden", HERE.parent / "template" / "remake.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    return golden


G = load_sibling()
WEATHER = G.TOOLS[:1]
UNIONS = [{"type": "function", "function": {
    "name": "plan", "description": "Plans.", "parameters": {"type": "object", "properties": {
        "when": {"oneOf": [{"type": "string", "description": "a day", "default": "today"},
                           {"type": "integer"}]},
        "how": {"type": ["string", "null"]}, "many": {"type": "number", "default": 3},
        "mood": {"type": "string", "enum": ["good", "bad"], "default": "good", "nullable": True},
        "who": {"type": "array", "items": {"type": "object", "properties": {
            "name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "number"}}},
            "required": ["name"]}}, "any": {}, "flag": {"type": "boolean"}},
        "required": ["when"]}}}]


def result(text, ident="abcdefghi", name="get_weather"):
    return {"role": "tool", "content": text, "tool_call_id": ident, "name": name}


CONVERSATIONS = {
    "long": G.conversation(G.SYSTEM, *[m for n in range(8) for m in (
        G.user(f"Question {n}?"), G.assistant(f"Answer {n}.\n\nWith a second part. "))], G.user("And now?")),
    "code": G.conversation(G.user("```python\nprint('{{ x }}', \"{% y %}\")\n```\n"),
                           G.assistant("It prints:\n\n    {{ x }} {% y %}"), G.user("\tTabs\r\nand CRs")),
    "last_assistant": G.conversation(G.user("Begin"), G.assistant("It was a dark and"), prompt=False),
    "tools_turns": G.conversation(
        G.SYSTEM, G.user("Weather in Rome?"),
        G.assistant("", tool_calls=[G.call("get_weather", {"city": "Rome", "unit": "C"})]),
        result("{\"t\": 30}"), G.assistant("30 °C."), G.user("And Oslo?"),
        G.assistant("", tool_calls=[G.call("get_weather", {"city": "Oslo"}, "123456789")]),
        result("{\"t\": -3}", "123456789"), tools=WEATHER),
    "tool_error": G.conversation(
        G.user("Weather?"), G.assistant(None, tool_calls=[G.call("get_weather", {"city": ""})]),
        result("error: no such city <b>&amp;</b>"), G.assistant("Where?"), G.user("Bonn"), tools=WEATHER),
    "two_results": G.conversation(
        G.user("Both?"), G.assistant(None, tool_calls=[
            G.call("get_weather", {"city": "A"}, "aaaaaaaaa"), G.call("get_weather", {"city": "B"}, "bbbbbbbbb")]),
        result("1", "aaaaaaaaa"), result("2", "bbbbbbbbb"), G.assistant("1 and 2."), G.user("Thanks"),
        tools=WEATHER),
    "unions": G.conversation(G.user("Plan it."), tools=UNIONS),
    "call_thinking": G.conversation(
        G.user("Weather?"), G.assistant("", thinking="He asks for the weather.", tool_calls=[
            G.call("get_weather", {"city": "Köln"})]), result("rain"), tools=WEATHER, reasoning_effort="high"),
    "builtin_tools": G.conversation(G.user("Search"), builtin_tools=["browser", "python"], tools=WEATHER,
                                    model_identity="You are Pool."),
    "thinking_on": G.conversation(G.SYSTEM, G.user("Think."), thinking=True, enable_thinking=True),
    "citations": G.conversation(G.user("Cite."), documents=[{"doc_id": 1, "title": "t", "text": "d"}],
                                controls={"length": "long", "hallucinations": True}),
}

# Templates that were made to be given tools want a list of them, and each of their fields described.
FULL = [{"type": "function", "function": {
    "name": name, "description": f"About {name}.", "parameters": {"type": "object", "properties": {
        "a": {"type": "string", "description": "the first"},
        "b": {"type": "integer", "description": "the second"},
        "c": {"type": "array", "items": {"type": "string"}, "description": "the third"}},
        "required": ["a"]}}} for name in ("search", "read")]
PLAIN = [
    [G.user("Hi")], [G.user("Hi"), G.assistant("Hello"), G.user("Bye")], [G.user("")], [G.user(" \n x \t")],
    [G.user("a\n\n\nb"), G.assistant("c\nd"), G.user("e")], [G.user("ä€😀"), G.assistant("𝄞"), G.user("\u00a0")],
    [G.user("q"), G.assistant("<think>t</think>a"), G.user("r")], [G.user("'\"\\<&>"), G.assistant("`"), G.user("#")],
    [G.user("1"), G.assistant("2"), G.user("3"), G.assistant("4"), G.user("5"), G.assistant("6"), G.user("7")],
    [G.user("Say it"), G.assistant("it")],
]
for n, messages in enumerate(PLAIN):
    CONVERSATIONS[f"plain{n}"] = G.conversation(*messages, tools=[], documents=[], functions="", datetime="now")
    CONVERSATIONS[f"full{n}"] = G.conversation(*messages, prompt=n % 2 == 0, tools=FULL, documents=[],
                                               functions=json.dumps(FULL), datetime="now")
CONVERSATIONS["full_call"] = G.conversation(
    G.SYSTEM, G.user("Find x"), G.assistant("ok", tool_calls=[G.call("search", {"a": "x", "b": 1})]),
    result("found", name="search"), tools=FULL, functions="[]", datetime="now")
CONVERSATIONS["full_system"] = G.conversation(G.SYSTEM, G.user("Find x"), tools=FULL, functions="[]", datetime="now")


def main():
    G.datetime = type("clock", (), {"datetime": type("now", (), {"now": staticmethod(lambda: NOW)})})
    env = G.environment()
    conversations = {**G.CONVERSATIONS, **CONVERSATIONS}
    lines = [f"# made by remake.py: jinja2 {jinja2.__version__}, Python {platform.python_version()}"]
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        data = path.read_bytes()
        lines.append(f"template {hashlib.sha256(data).hexdigest()} {path.name}")
        rendered = 0
        for name, variables in conversations.items():
            case = G.render(env, data.decode(), variables)
            if "error" in case:
                lines.append(f"{name} error")
                continue
            text = case["output"].encode()
            lines.append(f"{name} {len(text)} {hashlib.sha256(text).hexdigest()[:16]}")
            rendered += 1
        print(f"{path.name}: {rendered} of {len(conversations)}")
    (HERE / "cases.txt").write_text("\n".join(lines) + "\n")
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in CONVERSATIONS.items())
    (HERE / "conversations.json").write_text("{" + text + "}\n")


if __name__ == "__main__":
    main()
