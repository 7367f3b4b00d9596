#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The man page of a program, made of its own --help and that of its verbs: manual.py PROGRAM PAGE writes PAGE,
whose suffix is the section.

The flags' texts are written once, in service/cli/options.cc, and --help prints them; help2man would do for those, but runs the lines of
examples together and takes a second line of the usage for prose. What it relies on is the form that FlagTable::Help() gives:

  Usage: program ...            one line a way of calling; a word that is no flag after the program's name is a verb
  paragraphs
  Group:                        two columns: flag and metavariable, text from column 30 on
  Examples:                     shell, with comments
  paragraphs                    the environment; what begins with "Exit codes:" is the exit status

Whatever has another form is an error: a page with a part left out would be worse than none. The date is SOURCE_DATE_EPOCH's, if set.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys
import textwrap

COLUMN = 30  # where --help's texts begin
NAMES = {"devmem-loaderd": "receives training data from object stores into (device) memory, for trainers of this node",
         "devmem-loader": "streams training data from a bucket as tensor-ready batches; asks the node's daemon"}
TITLES = {"1": "User Commands", "8": "System Administration"}
FILES = {"devmem-loaderd": [
    ("/etc/devmem-loader/config.yaml", "the configuration, unless --config or DEVMEM_CONFIG names another"),
    ("/run/devmem-loader/loader.sock", "where trainers call; beside it loader.sock.fd, where they get memory, and loader.sock.upgrade, for a successor"),
    ("/run/devmem-loader", "journals of what was done to NICs, which the next start, or --recover, undoes"),
    ("/dev/udmabuf", "memory that a NIC writes into, on the CPU device"),
    ("/dev/devmem_binding", "a binding as a handle, where the kernel module is loaded")],
    "devmem-loader": [("/run/devmem-loader/loader.sock", "the node's daemon"),
                      (".devmem-index", "in a bucket's root: its index, by the verb index")]}
ALSO = {"devmem-loaderd": "devmem-loader(1), devmem_binding(4)", "devmem-loader": "devmem-loaderd(8), devmem_binding(4)"}
DOCUMENTS = "/usr/share/doc/devmem-loader: operations.md, configuration.md, doctor.md, metrics.md and others"


def plain(text):
    """Text as roff takes it for itself: no escape, no request, and a hyphen that can be copied into a shell."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def marked(text):
    """The same, flags in bold."""
    return re.sub(r"(?<![\w\\])(\\-\\-[a-z0-9]+(?:\\-[a-z0-9]+)*)", r"\\fB\1\\fR", plain(text))


def paragraph(lines):
    return filled(" ".join(line.strip() for line in lines))


def filled(text):
    """Lines of a page's source are short, and each begins as text."""
    return [marked(line) for line in textwrap.wrap(text, 70, break_long_words=False, break_on_hyphens=False)]


def help_of(command):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEVMEM_")}
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=clean)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} --help: status {done.returncode}: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(text):
    """{usage: [line], lead: [paragraph], groups: [(title, [(flag, [line])])], examples: [line], tail: [paragraph]}"""
    page = {"usage": [], "lead": [], "groups": [], "examples": [], "tail": []}
    for block in re.split(r"\n\n+", text.strip("\n")):
        lines = block.split("\n")
        if not page["usage"]:
            if not lines[0].startswith("Usage: "):
                sys.exit(f"no usage: {lines[0]}")
            page["usage"] = [line.removeprefix("Usage:").strip() for line in lines]
        elif lines[0] == "Examples:":
            page["examples"] = [line.removeprefix("  ") for line in lines[1:]]
        elif lines[0].endswith(":") and len(lines) > 1 and lines[1].startswith("  "):
            page["groups"].append((lines[0].removesuffix(":"), flags(lines[1:])))
        elif lines[0].startswith(" "):
            sys.exit(f"neither paragraph nor group: {lines[0]}")
        else:
            page["tail" if page["groups"] else "lead"].append(lines)
    return page


def flags(lines):
    found = []
    for line in lines:
        term, said = line[:COLUMN].strip(), line[COLUMN:].strip()
        if line.startswith("  ") and line[2] != " ":
            if len(line) > COLUMN and line[COLUMN - 1] != " ":  # too long for its column: the text is below
                term, said = line.strip(), ""
            found.append((term, [said] if said else []))
        elif not term and said and found:
            found[-1][1].append(said)
        else:
            sys.exit(f"no flag and no text of one: {line}")
    return found


def described(rows):
    out = []
    for term, said in rows:
        name, _, value = term.partition(" ")
        out += [".TP", f"\\fB{plain(name)}\\fR" + (f" \\fI{plain(value)}\\fR" if value else ""), *paragraph(said)]
    return out


def options(groups):
    return [line for title, rows in groups for line in [f".SS {title}", *described(rows)]]


def verb_sections(program, verbs):
    """A section each. What all of them have in the group General is said once."""
    pages = {verb: help_of([program, verb]) for verb in verbs}
    general = [{term for title, rows in page["groups"] for term, _ in rows if title == "General"} for page in pages.values()]
    common = set.intersection(*general)
    names = [term.partition(" ")[0] for term, _ in dict(pages[verbs[0]]["groups"])["General"] if term in common]
    out = [".SH VERBS", *filled(f"Each takes {', '.join(names[:-1])} and {names[-1]}, as above.")]
    for page in pages.values():
        out += [f'.SS "{plain(" | ".join(page["usage"]))}"']
        for index, lines in enumerate(page["lead"]):
            out += ([".PP"] if index else []) + paragraph(lines)
        for _, rows in page["groups"]:
            out += described([row for row in rows if row[0] not in common])
        if page["examples"]:
            out += [".PP", "For example", *example(page["examples"])]
        for lines in page["tail"]:
            out += [".PP", *paragraph(lines)]
    return out


def example(lines):
    return [".PP", ".RS 4", ".nf", *[plain(line) for line in lines], ".fi", ".RE"]


def tail_sections(paragraphs):
    """The environment, and from "Exit codes:" on the exit status."""
    before, _, after = " ".join(" ".join(lines) for lines in paragraphs).partition("Exit codes: ")
    out = []
    for title, words in (("ENVIRONMENT", before), ("EXIT STATUS", after)):
        if words:
            out += [f'.SH "{title}"', *filled(words)]
    return out


def page_of(program, section):
    name = pathlib.Path(program).name
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    page = help_of([program])
    when = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.datetime.now().timestamp()), datetime.timezone.utc)
    out = ['.\\" SPDX-License-Identifier: Apache-2.0', '.\\" Made of --help by deploy/manual.py.',
           f'.TH {name.upper()} {section} {when:%Y-%m-%d} "{name} {version}" "{TITLES[section]}"',
           ".SH NAME", f"{plain(name)} \\-", *filled(NAMES[name]), ".SH SYNOPSIS", ".nf"]
    verbs = []
    for usage in page["usage"]:
        called, _, rest = usage.partition(" ")
        out.append(f"\\fB{plain(called)}\\fR {plain(rest)}")
        if rest and rest[0].isalpha():
            verbs += rest.split()[0].split("|")
    out += [".fi", ".SH DESCRIPTION"]
    for index, lines in enumerate(page["lead"]):
        out += ([".PP"] if index else []) + paragraph(lines)
    out += [".SH OPTIONS", *options(page["groups"])]
    if verbs:
        out += verb_sections(program, verbs)
    if page["examples"]:
        out += [".SH EXAMPLES", *example(page["examples"])[1:]]
    out += tail_sections(page["tail"])
    out += [".SH FILES"]
    for path, what in FILES[name]:
        out += [".TP", f"\\fI{plain(path)}\\fR", *filled(what)]
    also = re.sub(r"([\w-]+)\((\d)\)", lambda match: f"\\fB{plain(match[1])}\\fR({match[2]})", ALSO[name])
    out += ['.SH "SEE ALSO"', also, ".PP", *filled(DOCUMENTS)]
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 3 or sys.argv[2].rpartition(".")[2] not in TITLES:
        sys.exit(__doc__)
    program, target = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    page = page_of(program, target.suffix[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="ascii")


if __name__ == "__main__":
    main()
