"""Pack a finished study without its weights, or rebuild its report from such a file; no GPU is needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from isotone import errors


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="results/<study> to pack")
    parser.add_argument("--out", type=Path, help="archive to write (default: results/<study>.tar.gz)")
    parser.add_argument("--lock", type=Path, default=Path("requirements.lock"), help="file of locked packages")
    parser.add_argument("--rebuild", type=Path, help="archive to rebuild the report from")
    parser.add_argument("--into", type=Path, default=Path("rebuilt"), help="where --rebuild unpacks")
    options = parser.parse_args()
    if bool(options.folder) == bool(options.rebuild):
        parser.error("give --folder to pack a study, or --rebuild to rebuild its report")
    return options


def main() -> int:
    """Pack or rebuild."""
    options = arguments()
    from isotone.reporting.archive import pack, rebuild

    if options.rebuild:
        print(rebuild(options.rebuild, options.into, lambda text: print(text, flush=True)))
        return errors.DONE
    out = options.out or options.folder.with_name(options.folder.name + ".tar.gz")
    manifest = pack(options.folder, out, options.lock)
    print(f"{out}: {len(manifest['files'])} files, {out.stat().st_size / 1e6:.1f} MB, digest {manifest['digest']}")
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
