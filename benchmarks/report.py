"""Turn stored benchmark results into Markdown tables.

python benchmarks/report.py                    # every device and room
python benchmarks/report.py bilateral stats    # some rooms
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def tables(path: Path) -> str:
    """Return the Markdown of one results file: a heading, then a table per case."""
    record = json.loads(path.read_text())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"## {record['room']} on {record['device']}, {record['threads']} threads",
        "",
        f"{record['date']}, commit {record['commit']}; {versions}.",
    ]
    for result in record["results"]:
        if "skipped" in result:
            lines += ["", f"**{result['case']}**", "", f"Skipped: {result['skipped']}."]
            continue
        metrics = list(result["rows"][0]["metrics"])
        in_images = "peak_images" in result["rows"][0]
        lines += ["", f"**{result['case']}**", ""]
        head = ["", "median ms (quartiles)", f"ratio to {result['baseline']}", "peak memory"]
        lines.append("| " + " | ".join(head + metrics) + " |")
        lines.append("| --- " * (len(head) + len(metrics)) + "|")
        for row in result["rows"]:
            t = row["milliseconds"]
            measured = row["peak_bytes"] is not None
            memory = f"{row['peak_bytes'] / 2**20:.1f} MiB" if measured else "-"
            memory += f" = {row['peak_images']:.1f} images" if in_images else ""
            cells = [
                row["label"],
                f"{t['median']:.4g} ({t['lower_quartile']:.4g} - {t['upper_quartile']:.4g})",
                f"{row['ratio']:.3f}",
                memory,
                *(f"{row['metrics'][name]:.5g}" for name in metrics),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        if "target" in result:
            lines += ["", f"Target: {result['target']}."]
    return "\n".join(lines)


def main() -> None:
    """Print the tables of the rooms named on the command line, or of all."""
    rooms = sys.argv[1:]
    for path in sorted(RESULTS.glob("*/*.json")):
        if not rooms or path.stem in rooms:
            print(tables(path) + "\n")


if __name__ == "__main__":
    main()
