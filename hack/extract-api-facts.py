#!/usr/bin/env python3
"""Writes the facts about the API (api/schema/*.txt, api/resources.txt, api/operations.txt) from reference documents.

    hack/extract-api-facts.py REFERENCE GO_TYPES

REFERENCE holds openapi-v2-1.36.json.gz, protobuf-1.36.json, resources.json, conformance-endpoints.json and
conformance-tests.json. GO_TYPES holds checkouts of
release-1.36 of k8s.io/{api,apimachinery,apiextensions-apiserver,kube-aggregator}, one folder each; only struct tags and
`+default` markers are read there (pointer or not, omitempty), which no published document says. The product needs
neither; run this when the API moves to a new release. No sentence of either source is written: names, types,
numbers and keys only. The formats are described in api/README.md.
"""

import gzip
import json
import os
import re
import sys
from collections import defaultdict

API = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "api")
META = "io.k8s.apimachinery.pkg.apis.meta.v1"

# Definitions that OpenAPI describes as opaque: how they are spelled in JSON.
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    f"{META}.Time": "time",
    f"{META}.MicroTime": "microtime",
    f"{META}.FieldsV1": "raw",
    f"{META}.Patch": "raw",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "raw",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray":
        "union object=1:.JSONSchemaProps other=2:[.JSONSchemaProps]",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool":
        "union object=2:.JSONSchemaProps other=1:bool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray":
        "union object=1:.JSONSchemaProps other=2:[string]",
}

# Messages with a JSON form of their own that OpenAPI v2 leaves out but that are served or stored, with their kind.
UNPUBLISHED = {
    f"{META}.PartialObjectMetadata": ["meta.k8s.io", "v1", "PartialObjectMetadata"],
    f"{META}.PartialObjectMetadataList": ["meta.k8s.io", "v1", "PartialObjectMetadataList"],
    f"{META}.CreateOptions": ["", "v1", "CreateOptions"],
    f"{META}.UpdateOptions": ["", "v1", "UpdateOptions"],
    f"{META}.PatchOptions": ["", "v1", "PatchOptions"],
    f"{META}.ListOptions": ["", "v1", "ListOptions"],
    f"{META}.GetOptions": ["", "v1", "GetOptions"],
    f"{META}.TableOptions": ["meta.k8s.io", "v1", "TableOptions"],
    "io.k8s.api.core.v1.RangeAllocation": ["", "v1", "RangeAllocation"],
    "io.k8s.api.core.v1.PodAttachOptions": ["", "v1", "PodAttachOptions"],
    "io.k8s.api.core.v1.PodExecOptions": ["", "v1", "PodExecOptions"],
    "io.k8s.api.core.v1.PodLogOptions": ["", "v1", "PodLogOptions"],
    "io.k8s.api.core.v1.PodPortForwardOptions": ["", "v1", "PodPortForwardOptions"],
    "io.k8s.api.core.v1.PodProxyOptions": ["", "v1", "PodProxyOptions"],
    "io.k8s.api.core.v1.NodeProxyOptions": ["", "v1", "NodeProxyOptions"],
    "io.k8s.api.core.v1.ServiceProxyOptions": ["", "v1", "ServiceProxyOptions"],
    **{f"io.k8s.api.apidiscovery.{v}.{t}": ["apidiscovery.k8s.io", v, t] if t.startswith("APIGroupD") else None
       for v in ("v2", "v2beta1")
       for t in ("APIGroupDiscovery", "APIGroupDiscoveryList", "APIResourceDiscovery", "APISubresourceDiscovery",
                 "APIVersionDiscovery")},
    **{f"{META}.{t}": None for t in ("GroupKind", "GroupVersionKind")},
}


# Messages that protobuf-1.36.json leaves out: field names in the order of their numbers, "" for a number that is not used.
AGGREGATOR = {
    "APIService": ["metadata", "spec", "status"],
    "APIServiceCondition": ["type", "status", "lastTransitionTime", "reason", "message"],
    "APIServiceList": ["metadata", "items"],
    "APIServiceSpec": ["service", "group", "version", "insecureSkipTLSVerify", "caBundle", "", "groupPriorityMinimum",
                       "versionPriority"],
    "APIServiceStatus": ["conditions"],
    "ServiceReference": ["namespace", "name", "port"],
}


def definition_name(message):
    """`k8s.io.api.core.v1.Pod` as OpenAPI calls it."""
    return "io.k8s." + ".".join(message.split(".")[2:]).replace("_", "-")


def package_of(name):
    return name.rsplit(".", 1)[0]


# ---- Go struct tags ----------------------------------------------------------------------------------------------

GO_FIELD = re.compile(r'^\s*(?:(\w+)\s+)?(\S.*?)\s*`json:"([^"]*)"')


def go_packages(root):
    """{definition package: {type: [(json name, Go type, options, default marker)] | alias text}}."""
    places = {
        "apimachinery/pkg/apis/meta/v1": META,
        "apimachinery/pkg/version": "io.k8s.apimachinery.pkg.version",
        "apiextensions-apiserver/pkg/apis/apiextensions/v1":
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
        "kube-aggregator/pkg/apis/apiregistration/v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    }
    api = os.path.join(root, "api")
    for group in sorted(os.listdir(api)):
        for version in sorted(os.listdir(os.path.join(api, group))) if os.path.isdir(os.path.join(api, group)) else []:
            if re.match(r"v\d", version):
                places[f"api/{group}/{version}"] = f"io.k8s.api.{group}.{version}"
    packages = {}
    for place, package in places.items():
        types = packages[package] = {}
        folder = os.path.join(root, place)
        for file in sorted(os.listdir(folder)):
            if file.endswith(".go") and not file.endswith("_test.go") and not file.startswith("zz_") \
                    and not file.startswith("generated"):
                with open(os.path.join(folder, file), encoding="utf-8") as f:
                    parse_go(f.read(), types)
    return packages


def parse_go(text, types):
    constants = dict(re.findall(r'^\s*(\w+)\s+\w*\s*=\s*("[^"]*")', text, re.M))
    current, default = None, None
    for line in text.split("\n"):
        start = re.match(r"^type (\w+) struct \{", line)
        alias = re.match(r"^type (\w+) =? ?([\w.\[\]*]+)", line)
        if start:
            current, default = start.group(1), None
            types[current] = []
        elif alias and "interface" not in line:
            types.setdefault(alias.group(1), alias.group(2))
        elif current and line.startswith("}"):
            current = None
        elif current:
            marker = re.search(r"\+default=(.*?)\s*$", line)
            if marker:
                text_default = marker.group(1)
                reference = re.match(r"ref\((\w+)\)", text_default)
                default = constants[reference.group(1)] if reference else text_default
            stripped = line.strip()
            if stripped.startswith("//"):
                continue
            field = GO_FIELD.match(line)
            if field:
                name, go_type, tag = field.groups()
                json_name, *options = tag.split(",")
                types[current].append((json_name, go_type, options, default))
            elif re.match(r"^(metav1|runtime)\.\w+$|^\w+$", stripped):
                types[current].append(("", stripped, ["inline"], None))
            if stripped:
                default = None


def go_fields(packages, package, name, seen=()):
    """{json name: (Go type, options, default)} with embedded structs flattened."""
    found = packages.get(package, {}).get(name)
    if isinstance(found, str):
        target = found.split(".")[-1]
        return go_fields(packages, package.rsplit(".", 1)[0] + ".v1", target) if "." in found else \
            go_fields(packages, package, target)
    if found is None:
        return {}
    fields = {}
    for json_name, go_type, options, default in found:
        if json_name == "" and "inline" in options:
            embedded = go_type.lstrip("*")
            where = META if embedded.startswith("metav1.") or embedded == "TypeMeta" else package
            inner = go_fields(packages, where, embedded.split(".")[-1])
            if not inner and "." in embedded:
                inner = go_fields(packages, package.rsplit(".", 1)[0] + ".v1", embedded.split(".")[-1])
            fields.update(inner)
        elif json_name != "-":
            fields[json_name] = (go_type, options, default)
    if name == "TypeMeta":
        return {k: v for k, v in fields.items() if k in ("kind", "apiVersion")}
    return fields


# ---- protobuf ----------------------------------------------------------------------------------------------------

def resolve(message, reference):
    reference = reference.lstrip(".")
    if reference in ("string", "int32", "int64", "bool", "bytes", "double"):
        return reference
    return reference if "." in reference else package_of(message) + "." + reference


def proto_fields(messages, message, prefix=""):
    """{json name: dotted field numbers}, embedded messages flattened."""
    fields = {}
    for number, _, kind, name, *extra in messages.get(message, []):
        if extra == ["inline"]:
            fields.update(proto_fields(messages, resolve(message, kind), f"{prefix}{number}."))
        else:
            fields[name] = f"{prefix}{number}"
    return fields


def proto_type(messages, message, label, kind, package):
    """The type text of a field known from protobuf alone."""
    if kind.startswith("map<"):
        return "{" + proto_type(messages, message, "", kind[4:-1].split(",")[1].strip(), package) + "}"
    target = resolve(message, kind)
    if "." in target:
        short = target.rsplit(".", 1)[1]
        text = "~[string]" if short == "Verbs" else reference_text(definition_name(target), package)
    else:
        text = target
    return f"[{text}]" if label == "repeated" else text


# ---- output ------------------------------------------------------------------------------------------------------

def reference_text(name, package):
    return "." + name.rsplit(".", 1)[1] if package_of(name) == package else name


def openapi_type(prop, package, wrapped):
    if "$ref" in prop:
        return reference_text(prop["$ref"][len("#/definitions/"):], package)
    kind = prop["type"]
    if kind == "array":
        return ("~" if wrapped else "") + "[" + openapi_type(prop["items"], package, False) + "]"
    if kind == "object":
        return "{" + openapi_type(prop["additionalProperties"], package, wrapped) + "}"
    if kind == "string":
        return "bytes" if prop.get("format") == "byte" else "string"
    return {"boolean": "bool", "number": "double"}.get(kind) or prop["format"]


def is_struct(prop, go_type):
    return "$ref" in prop and not go_type.startswith(("*", "[", "map"))


def field_line(name, prop, package, required, number, go, wrapped):
    words = [name, openapi_type(prop, package, wrapped), number or "-"]
    if required:
        words.append("required")
    if go:
        go_type, options, default = go
        if go_type.startswith("*"):
            words.append("pointer")
        if "omitempty" not in options and "omitzero" not in options or \
                is_struct(prop, go_type) and "omitzero" not in options:
            words.append("always")
        # the default of a field that is no pointer and "" or 0 says nothing
        if default is not None and (go_type.startswith("*") or default not in ('""', "0", "false")):
            words.append("default=" + json.dumps(json.loads(default)))
    else:
        raise SystemExit(f"no Go field for {package} {name}")
    if "x-kubernetes-list-type" in prop:
        keys = ",".join(prop.get("x-kubernetes-list-map-keys", []))
        words.append("list=" + prop["x-kubernetes-list-type"] + (f"({keys})" if keys else ""))
    if "x-kubernetes-map-type" in prop:
        words.append("map=" + prop["x-kubernetes-map-type"])
    if "x-kubernetes-patch-strategy" in prop:
        words.append("patch=" + prop["x-kubernetes-patch-strategy"])
    if "x-kubernetes-patch-merge-key" in prop:
        words.append("key=" + prop["x-kubernetes-patch-merge-key"])
    return "  " + " ".join(words)


def schema_files(openapi, messages, packages):
    by_definition = {definition_name(m): m for m in messages}
    out = defaultdict(list)
    every_version = None
    for name in sorted(openapi):
        definition, package = openapi[name], package_of(name)
        lines = out[package]
        short = name.rsplit(".", 1)[1]
        kinds = [[k["group"], k["version"], k["kind"]] for k in definition.get("x-kubernetes-group-version-kind", [])]
        if len(kinds) > 1:
            versions = [f"{g}/{v}" for g, v, _ in kinds]
            if every_version not in (None, versions):
                raise SystemExit(f"{name} has a list of versions of its own")
            every_version = versions
            kind_text = " kind=*"
        else:
            kind_text = "".join(f" kind={g}/{v}" for g, v, _ in kinds)
        if "x-kubernetes-map-type" in definition:
            kind_text += " map=" + definition["x-kubernetes-map-type"]
        if name in SCALARS:
            lines.append(f"scalar {short} {SCALARS[name]}")
            continue
        lines.append(f"type {short}{kind_text}")
        for union in definition.get("x-kubernetes-unions", []):
            pairs = ",".join(f"{k}:{v}" for k, v in union["fields-to-discriminateBy"].items())
            lines.append(f"  union discriminator={union.get('discriminator', '')} {pairs}")
        message = by_definition.get(name)
        numbers = proto_fields(messages, message) if message else {}
        wrapped = {f[3] for f in messages.get(message, []) if f[2] in ("Verbs", "map<string, ExtraValue>")}
        go = go_fields(packages, package, short)
        for prop_name, prop in definition.get("properties", {}).items():
            lines.append(field_line(prop_name, prop, package, prop_name in definition.get("required", []),
                                    numbers.get(prop_name), go.get(prop_name), prop_name in wrapped))
    for name, kind in UNPUBLISHED.items():
        package, short, message = package_of(name), name.rsplit(".", 1)[1], by_definition[name]
        lines = out[package]
        lines.append(f"unpublished {short}" + (f" kind={kind[0]}/{kind[1]}" if kind else ""))
        go = go_fields(packages, package, short)
        if kind:
            lines += ["  apiVersion string -", "  kind string -"]
        for number, label, proto, field, *_ in messages[message]:
            go_type, options, _ = go[field]
            words = [field, proto_type(messages, message, label, proto, package), str(number)]
            if go_type.startswith("*"):
                words.append("pointer")
            struct = words[1].startswith((".", "io.")) and not go_type.startswith("*")
            if "omitempty" not in options or struct and "omitzero" not in options:
                words.append("always")
            lines.append("  " + " ".join(words))
    return out, every_version


def resources(reference):
    """Resources in the order of the reference, which is discovery's."""
    lines = []
    for group_version, entries in reference.items():
        lines.append(f"version {group_version}")
        for r in entries:
            words = [r["name"], r["singularName"], r["kind"], "namespaced" if r["namespaced"] else "cluster",
                     ",".join(r["verbs"])]
            words += [f"short={','.join(r['shortNames'])}"] if r.get("shortNames") else []
            words += [f"categories={','.join(r['categories'])}"] if r.get("categories") else []
            lines.append("  " + " ".join(words))
            for s in r.get("subresources", []):
                sub = s["name"].split("/", 1)[1]
                gv = f" {s['group']}/{s['version']}" if "group" in s or "version" in s else ""
                lines.append(f"    {sub} {s['kind']} {','.join(s['verbs'])}{gv}")
    return lines


def operations(endpoints, tests, resource_list, openapi_paths):
    """Operations of the conformance list by path: `METHOD VERB ID`. Stops at one that the other documents do not know."""
    served = {}
    for group_version, entries in resource_list.items():
        prefix = ("/api/" if "/" not in group_version else "/apis/") + group_version
        for r in entries:
            for name, verbs in [(r["name"], r["verbs"])] + [(s["name"], s["verbs"]) for s in r.get("subresources", [])]:
                served[prefix, name] = set(verbs)
    by_path = defaultdict(list)
    for o in endpoints:
        path = o["path"]
        method = o["method"].lower()
        if openapi_paths.get(path, {}).get(method, {}).get("operationId") != o["operationId"]:
            raise SystemExit(f"{o['method']} {path} is not {o['operationId']} in OpenAPI")
        words = [w for w in path.split("/") if w]
        if words[0] in ("api", "apis") and not path.endswith("/"):
            at = 2 if words[0] == "api" else 3
            prefix, rest = "/" + "/".join(words[:at]), words[at:]
            if rest[0] == "namespaces" and len(rest) > 2 and rest[1] == "{namespace}":
                rest = rest[2:]
            resource = "/".join([rest[0]] + [w for w in rest[2:] if not w.startswith("{")])
            if o["verb"] not in served.get((prefix, resource), ()):
                raise SystemExit(f"{o['operationId']}: {prefix} does not serve {o['verb']} of {resource}")
        by_path[path].append(f"  {o['method']} {o['verb']} {o['operationId']}")
    called = {e for t in tests for e in t["endpoints"]}
    for o in endpoints:
        if o["operationId"] not in called:
            raise SystemExit(f"{o['operationId']} is in the list, but no conformance test calls it")
    lines = []
    for path, entries in by_path.items():
        lines += [path, *entries]
    return lines


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    reference, go_root = sys.argv[1:]
    with gzip.open(os.path.join(reference, "openapi-v2-1.36.json.gz"), "rt", encoding="utf-8") as f:
        document = json.load(f)
        openapi = document["definitions"]
    with open(os.path.join(reference, "protobuf-1.36.json"), encoding="utf-8") as f:
        messages = json.load(f)
    for message, fields in AGGREGATOR.items():
        # Labels and types are those of OpenAPI.
        messages["k8s.io.kube_aggregator.pkg.apis.apiregistration.v1." + message] = [
            [number, "", "", field] for number, field in enumerate(fields, 1) if field]
    with open(os.path.join(reference, "resources.json"), encoding="utf-8") as f:
        resource_list = json.load(f)
    with open(os.path.join(reference, "conformance-endpoints.json"), encoding="utf-8") as f:
        endpoints = json.load(f)
    with open(os.path.join(reference, "conformance-tests.json"), encoding="utf-8") as f:
        tests = json.load(f)
    out, every_version = schema_files(openapi, messages, go_packages(go_root))
    os.makedirs(os.path.join(API, "schema"), exist_ok=True)
    for old in os.listdir(os.path.join(API, "schema")):
        os.remove(os.path.join(API, "schema", old))
    for package, lines in sorted(out.items()):
        file = package.removeprefix("io.k8s.").removeprefix("api.")
        with open(os.path.join(API, "schema", file + ".txt"), "w", encoding="utf-8") as f:
            f.write(f"package {package}\n" + "\n".join(lines) + "\n")
    with open(os.path.join(API, "every-version.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(every_version) + "\n")
    with open(os.path.join(API, "resources.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(resources(resource_list)) + "\n")
    with open(os.path.join(API, "operations.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(operations(endpoints, tests, resource_list, document["paths"])) + "\n")


if __name__ == "__main__":
    main()
