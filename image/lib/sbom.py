"""What a slot is made of, as CycloneDX 1.5: Debian's packages from the slot's own dpkg, crates from Cargo.lock's resolution.

Usage: python3 sbom.py TREE ROLE VERSION, in the folder of Cargo.toml.
"""

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from urllib.parse import quote


def debian(tree):
    """One component per installed package."""
    form = "${db:Status-Status}\\t${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\t${source:Version}\\n"
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout
    for line in listed.splitlines():
        status, name, version, architecture, source, source_version = line.split("\t")
        if status != "installed":
            continue
        reference = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={architecture}&distro=bookworm"
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "properties": [{"name": "debian:source", "value": f"{source} {source_version}"}],
        }


def crates(daemon):
    """One component per crate that the daemon and the console are built from on this kind of machine; not what only builds or tests it."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    wanted = [id for id, package in packages.items() if package["name"] in (daemon, "sluice-box")]
    seen = set(wanted)
    while wanted:
        for dependency in nodes[wanted.pop()]["deps"]:
            linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if linked and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                wanted.append(dependency["pkg"])
    for id in seen:
        package = packages[id]
        reference = f"pkg:cargo/{package['name']}@{package['version']}"
        component = {
            "type": "library",
            "bom-ref": reference,
            "name": package["name"],
            "version": package["version"],
            "purl": reference,
        }
        if package["license"]:
            component["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
        yield component


def main():
    tree, role, version = sys.argv[1:]
    daemon = f"sluice-{role}"
    components = sorted([*debian(tree), *crates(daemon)], key=lambda component: component["bom-ref"])
    made = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "operating-system", "bom-ref": f"{daemon}-{version}", "name": daemon, "version": version},
        },
        "components": components,
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
