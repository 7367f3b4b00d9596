#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is written about the settings, from their one schema, proto/devmem_loader/v1/config.proto: config_pages.py [--check].

  docs/configuration.md  what stands there between the two marks
  deploy/config.yaml     every setting with its comment and default, commented out

--check changes nothing: exit status 1 if a file is not as it would be written, 77 without protoc or python3-protobuf.
"""
import importlib
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = "devmem_loader/v1/config.proto"
PAGE, EXAMPLE = ROOT / "docs/configuration.md", ROOT / "deploy/config.yaml"
BEGIN, END = "<!-- settings: made of config.proto by ./dev docs -->", "<!-- end of the settings -->"
SKIP = 77


class Setting:
    """One field: its key, the paragraphs of its comment, and what may stand there."""

    def __init__(self, field, comment, kinds, extension):
        self.key = field.name
        self.paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", comment) if part.strip()]
        self.options = field.options.Extensions[extension]
        self.repeated = field.label == field.LABEL_REPEATED
        self.enum = kinds.enums.get(field.type_name)
        self.fields = []  # of a structured setting
        if field.type == field.TYPE_MESSAGE and field.type_name != ".google.protobuf.Duration":
            self.fields = kinds.messages[field.type_name]()
        self.flag = not self.fields
        self.type = field.type, field

    def default(self):
        text = self.options.default_value
        if text or self.fields or self.repeated:
            return text
        return "false" if self.type[0] == self.type[1].TYPE_BOOL else ""

    def value(self):
        """What may stand there, in words."""
        kind, field = self.type
        if self.fields:
            return "a list, of entries with" if self.repeated else "a mapping with"
        if self.enum:
            return " or ".join(filter(None, [", ".join(f"`{name}`" for name in self.enum[:-1]), f"`{self.enum[-1]}`"]))
        if kind == field.TYPE_MESSAGE:
            return "a time" + (" above 0" if self.options.lowest else "")
        if self.options.form:
            return "a size" if self.options.form == self.options.SIZE else "an octal mode"
        if kind == field.TYPE_BOOL:
            return "`true` or `false`"
        if kind == field.TYPE_STRING:
            return "a list of texts" if self.repeated else "a text"
        if self.repeated:
            return "a list of whole numbers"
        highest = f" to {self.options.highest}" if self.options.highest else ""
        return f"a whole number from {self.options.lowest}{highest}"


class Kinds:
    """The enums and messages of the schema, by full name."""

    def __init__(self, file, extension):
        self.enums, self.messages, self.extension = {}, {}, extension
        self.comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for i, message in enumerate(file.message_type):
            self.add(message, f".{file.package}.{message.name}", (4, i))

    def add(self, message, name, path):
        self.messages[name] = lambda: [Setting(field, self.comments.get((*path, 2, i), ""), self, self.extension)
                                       for i, field in enumerate(message.field)]
        for enum in message.enum_type:
            prefix = len(enum.value[0].name) - len("UNSPECIFIED")
            self.enums[f"{name}.{enum.name}"] = [value.name[prefix:].lower() for value in enum.value[1:]]
        for i, nested in enumerate(message.nested_type):
            self.add(nested, f"{name}.{nested.name}", (*path, 3, i))


def settings():
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["protoc", "-I", ROOT / "proto", f"--python_out={out}", "--include_source_info", f"--descriptor_set_out={out}/set",
                        ROOT / "proto" / SCHEMA], check=True)
        sys.path.insert(0, out)
        module = importlib.import_module("devmem_loader.v1.config_pb2")
        descriptors = importlib.import_module("google.protobuf.descriptor_pb2")
        file = descriptors.FileDescriptorSet.FromString(pathlib.Path(out, "set").read_bytes()).file[0]
    return Kinds(file, module.setting).messages[f".{file.package}.Config"]()


def page(groups):
    out = []
    for group, members in groups.items():
        out.append(f"### {group}")
        for one in members:
            out.append(f"#### `{one.key}`")
            facts = [one.value()[0].upper() + one.value()[1:] if one.value()[0] != "`" else one.value(),
                     f"default `{one.default()}`" if one.default() else "default: not set",
                     "SIGHUP applies it" if one.options.reload else "a change takes a restart"]
            facts.append(f"`{'--' + one.key.replace('_', '-')}`, `DEVMEM_{one.key.upper()}`" if one.flag else "in the file only")
            if one.fields:
                facts[0] += " " + ", ".join(f"`{field.key}`" for field in one.fields)
            out.append(textwrap.fill("; ".join(facts) + ".", 128, break_long_words=False, break_on_hyphens=False))
            out += [textwrap.fill(text, 128, break_long_words=False, break_on_hyphens=False) for text in one.paragraphs]
            out += [f"- `{field.key}`: {field.value()}. {' '.join(field.paragraphs)}" for field in one.fields]
    return "\n\n".join(out)


def example(groups):
    out = ["# SPDX-License-Identifier: Apache-2.0",
           "# Every setting of devmem-loaderd with its default, commented out. A flag wins over the environment (DEVMEM_QUEUES), that over",
           "# this file; devmem-loaderd --print-config says where each value is from. SIGHUP applies what is marked so to the running",
           "# daemon; the rest takes a restart. JSON will do as well. More: docs/configuration.md."]
    for group, members in groups.items():
        out += ["", f"# --- {group} ---"]
        for one in members:
            mark = " (SIGHUP)" if one.options.reload else ""
            out += [""] + textwrap.wrap(one.paragraphs[0] + mark, 126, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            default = one.default()
            if one.fields or one.repeated:
                default = "[]" if one.repeated else "{}"
            if not one.enum and one.type[0] == one.type[1].TYPE_STRING and not one.repeated and not default:
                default = "''"
            out.append(f"#{one.key}: {default}")
    return "\n".join(out) + "\n"


def main():
    check = "--check" in sys.argv[1:]
    if check and (shutil.which("protoc") is None or importlib.util.find_spec("google") is None):
        print("SKIP: protoc or python3-protobuf is not installed")
        return SKIP
    groups = {}
    for one in settings():
        groups.setdefault(one.options.group, []).append(one)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    wanted = {PAGE: before + BEGIN + "\n\n" + page(groups) + "\n\n" + END + rest.split(END)[1], EXAMPLE: example(groups)}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)}: is not what config.proto says: run ./dev docs")
        else:
            path.write_text(wanted[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
