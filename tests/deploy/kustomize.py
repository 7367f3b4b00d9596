# SPDX-License-Identifier: Apache-2.0
"""Renders the kustomizations of deploy/kubernetes: a small part of kustomize, because Debian 12 has none. Strict: what it does not know
is an error and never left out. Where a real kustomize is at hand, kubernetes_test.py compares.

    objects = kustomize.render(ROOT / "deploy/kubernetes/overlays/devmem")      # a list of dicts

Known: resources, configMapGenerator (files; a hash of the content behind the name, and behind every name that refers to it), patches
(path; strategic merge by kind, namespace and name), images (name; newName, newTag, digest), components (of the same).
"""
import copy
import hashlib
import json
import pathlib

import yaml

KNOWN = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "patches", "images"}
KINDS = {"Kustomization": KNOWN, "Component": KNOWN}
# By what the elements of a list are told apart; lists of anything else that a patch names are replaced, if they hold no maps.
MERGE_KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}


class Unknown(ValueError):
    """The kustomization asks for something that is not known here, or is wrong."""


class _Loader(yaml.SafeLoader):
    """A key that is given twice is an error, as it is to Kubernetes."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise Unknown(f"{node.start_mark.name}:{node.start_mark.line + 1}: '{twice[0]}' is given twice")
        return super().construct_mapping(node, deep)


def load(path):
    """The documents of a YAML file, without empty ones."""
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.load_all(file, Loader=_Loader) if document is not None]


def identity(thing):
    return thing["kind"], thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _only(what, given, known):
    if unknown := sorted(set(given) - set(known)):
        raise Unknown(f"{what}: this renderer does not know {', '.join(unknown)}")


def merge(base, patch, where="patch"):
    """`base` with a strategic merge patch. A null takes a field away, `$patch: delete` an element of a list."""
    merged = dict(base)
    for key, value in patch.items():
        here = f"{where}.{key}"
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            if "$patch" in value:
                raise Unknown(f"{here}: $patch is known for elements of lists only")
            merged[key] = merge(base.get(key) or {}, value, here)
        elif isinstance(value, list) and any(isinstance(element, dict) for element in value):
            merged[key] = _merge_list(base.get(key) or [], value, key, here)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _merge_list(base, patch, field, where):
    """As kustomize: what the patch names comes first, in its order; then the rest."""
    if field not in MERGE_KEYS:
        raise Unknown(f"{where}: this renderer does not know what tells the elements of {field} apart")
    by = MERGE_KEYS[field]
    there = {element[by]: element for element in base}
    merged = []
    for element in patch:
        here = f"{where}[{element[by]}]"
        if "$patch" in element:
            if element["$patch"] != "delete" or element[by] not in there:
                raise Unknown(f"{here}: $patch: {element['$patch']} of what is not there, or not known")
            continue
        merged.append(merge(there.get(element[by], {}), element, here))
    return merged + [element for element in base if element[by] not in {patched[by] for patched in patch}]


def _patch(objects, patch, where):
    for index, thing in enumerate(objects):
        if identity(thing) == identity(patch):
            objects[index] = merge(thing, patch, where)
            return
    raise Unknown(f"{where}: there is no {'/'.join(identity(patch))} to patch")


def content_hash(config_map):
    """The ten characters that kustomize puts behind a generated name: SHA-256 of kind, data and an empty name as Go writes JSON, in
    hexadecimal digits, of which five are exchanged such that no word comes of them."""
    kept = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(str.maketrans("013ae", "ghkmt"))


def _generate(folder, spec, where):
    _only(where, spec, {"name", "namespace", "files"})
    data = {pathlib.PurePath(name).name: (folder / name).read_text(encoding="utf-8") for name in spec["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": spec["name"], "namespace": spec["namespace"]}, "data": data}


def image_name(image):
    """The part of an image's name that says neither tag nor digest."""
    name = image.partition("@")[0]
    return name if ":" not in name.rpartition("/")[2] else name.rpartition(":")[0]


def _set_image(thing, spec):
    for container in containers(_pod_spec(thing) or {}):
        if image_name(container["image"]) == spec["name"]:
            name, rest = spec.get("newName", spec["name"]), container["image"][len(spec["name"]):]
            if "digest" in spec:
                rest = "@" + spec["digest"]
            elif "newTag" in spec:
                rest = ":" + spec["newTag"]
            container["image"] = name + rest


def _accumulate(folder, kind="Kustomization", objects=None, generated=None):
    """The objects, and the names of those that get a hash once everything is patched. A component works on those of who names it."""
    path = folder / "kustomization.yaml"
    (kustomization,) = load(path)
    if kustomization.get("kind") != kind:
        raise Unknown(f"{path}: kind is {kustomization.get('kind')}, not {kind}")
    _only(path, kustomization, KINDS[kind])
    objects, generated = objects if objects is not None else [], generated if generated is not None else []
    for name in kustomization.get("resources", []):
        if (folder / name).is_dir():
            more, hashed = _accumulate(folder / name)
            objects += more
            generated += hashed
        else:
            objects += load(folder / name)
    for name in kustomization.get("components", []):
        _accumulate(folder / name, "Component", objects, generated)
    for spec in kustomization.get("configMapGenerator", []):
        objects.append(_generate(folder, spec, path))
        generated.append((spec["namespace"], spec["name"]))
    if len({identity(thing) for thing in objects}) != len(objects):
        raise Unknown(f"{path}: an object is given twice")
    for patch in kustomization.get("patches", []):
        _only(f"{path}: patches", patch, {"path"})
        for document in load(folder / patch["path"]):
            _patch(objects, document, f"{folder.name}/{patch['path']}")
    for spec in kustomization.get("images", []):
        _only(f"{path}: images", spec, {"name", "newName", "newTag", "digest"})
        for thing in objects:
            _set_image(thing, spec)
    return objects, generated


def _pod_spec(thing):
    return thing.get("spec", {}).get("template", {}).get("spec") if thing["kind"] in ("DaemonSet", "Job") else None


def containers(pod):
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def render(folder):
    """Every object of the kustomization in `folder`. Raises Unknown."""
    objects, generated = _accumulate(pathlib.Path(folder).resolve())
    renamed = {}
    for thing in objects:
        key = (thing["metadata"].get("namespace"), thing["metadata"]["name"])
        if thing["kind"] == "ConfigMap" and key in generated:
            renamed[key] = f"{key[1]}-{content_hash(thing)}"
            thing["metadata"]["name"] = renamed[key]
    for thing in objects:  # who refers to one: volumes are all that do here
        for volume in (_pod_spec(thing) or {}).get("volumes", []):
            if "configMap" in volume:
                name = volume["configMap"]["name"]
                volume["configMap"]["name"] = renamed.get((thing["metadata"].get("namespace"), name), name)
    return objects
