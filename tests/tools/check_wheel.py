"""Check that a wheel brings the package, all of it, and nothing else: ``python tests/tools/check_wheel.py WHEEL``.

With ``--sbom`` behind it, check its bill of materials, too.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

PACKAGE = "celery_realtime"


def main() -> int:
    wheel, source = Path(sys.argv[1]), Path(__file__).parents[2]
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    shipped = {name for name in names if ".dist-info/" not in name}
    problems = [f"not ours: {name}" for name in sorted(shipped) if not name.startswith(f"{PACKAGE}/")]
    problems += [f"missing: {name}" for name in sorted(expected(source) - shipped)]
    problems += wrong_in_record(archive)
    if "--sbom" in sys.argv[2:]:
        problems += wrong_in_sbom(archive)
    print("\n".join(problems) or f"{wheel.name}: {len(shipped)} files, as it should be")
    return int(bool(problems))


def expected(source: Path) -> set[str]:
    package = source / PACKAGE
    data = [package / "py.typed", *(package / "static").iterdir(), *package.rglob("*.lua")]
    files = [*package.glob("*.py"), *data]
    return {str(path.relative_to(source)) for path in files if path.is_file()}


def wrong_in_record(archive: zipfile.ZipFile) -> list[str]:
    """Return what a wheel's list of files has wrong."""
    (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
    rows = [row for row in csv.reader(io.StringIO(archive.read(record).decode())) if row]
    listed = {name: (digest, size) for name, digest, size in rows}
    problems = [f"not in RECORD: {name}" for name in sorted({*archive.namelist()} - {*listed})]
    problems += [f"in RECORD, and missing: {name}" for name in sorted({*listed} - {*archive.namelist()})]
    for name in archive.namelist():
        digest, size = listed.get(name, ("", ""))
        data = archive.read(name)
        right = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if name in listed and name != record and (digest, size) != (f"sha256={right}", str(len(data))):
            problems.append(f"wrong in RECORD: {name}")
    return problems


def wrong_in_sbom(archive: zipfile.ZipFile) -> list[str]:
    """Return what a wheel's bill of materials has wrong: it says what is in the wheel, and what comes along."""
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    about = Parser().parsestr(archive.read(metadata).decode())
    found = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
    if len(found) != 1:
        return [f"one bill of materials is expected in .dist-info/sboms/, not {found}"]
    bom = json.loads(archive.read(found[0]))
    package = bom["metadata"]["component"]
    files = {part["name"]: part["hashes"][0]["content"] for part in package["components"]}
    right = {
        name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist() if ".dist-info/" not in name
    }
    lines = {each["value"] for part in bom["components"] for each in part["properties"]}
    own = [line for line in about.get_all("Requires-Dist") or () if "extra ==" not in line]
    problems = [f"in the bill of materials, missing: {line}" for line in own if line not in lines]
    problems += [f"in the bill of materials, wrong: {name}" for name in sorted({*files} ^ {*right})]
    problems += [f"in the bill of materials, changed: {name}" for name in files if files[name] != right.get(name)]
    purl = f"pkg:pypi/{about['Name']}@{about['Version']}"
    return problems + (
        [] if package["purl"] == purl else [f"the bill of materials is of {package['purl']}, not {purl}"]
    )


if __name__ == "__main__":
    sys.exit(main())
