"""Check that a wheel brings the package, all of it, and nothing else: ``python tests/tools/check_wheel.py WHEEL``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGE = "celery_realtime"


def main() -> int:
    wheel, source = Path(sys.argv[1]), Path(__file__).parents[2]
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {name for name in names if ".dist-info/" not in name}
    problems = [f"not ours: {name}" for name in sorted(shipped) if not name.startswith(f"{PACKAGE}/")]
    problems += [f"missing: {name}" for name in sorted(expected(source) - shipped)]
    print("\n".join(problems) or f"{wheel.name}: {len(shipped)} files, as it should be")
    return int(bool(problems))


def expected(source: Path) -> set[str]:
    package = source / PACKAGE
    data = [package / "py.typed", *(package / "static").iterdir(), *package.rglob("*.lua")]
    files = [*package.glob("*.py"), *data]
    return {str(path.relative_to(source)) for path in files if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
