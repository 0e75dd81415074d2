"""What was measured: rows, the table they are printed as, and the file they are kept in.

A row is {name, unit, better, ours, peer, peer_name, ratio, threads, dtype, machine, isa, date}; ratio is
ours / peer, isa the instruction set the engine used. `better` says which way is good: "less" (seconds,
errors, bytes) or "more" (rates, counts). Rows of engines that hold a model add peak_rss_mb and peer_peak_rss_mb, the most memory
each process ever had, file pages included, in millions of bytes.
"""
import datetime
import json
import os
import platform

FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def cpu_flags():
    with open("/proc/cpuinfo") as file:
        lines = [line for line in file if line.startswith("flags")]
    words = set(lines[0].split()) if lines else set()
    return [flag for flag in FLAGS if flag in words]


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
                     platform.machine())
    return f"{model} ({(cpu_flags() or ['baseline'])[0]}, {os.cpu_count()} cores)"


class Rows:
    def __init__(self, threads, isa):
        self.rows, self.wrong = [], []
        self.common = {"threads": threads, "machine": machine(), "isa": isa,
                       "date": datetime.date.today().isoformat()}

    def head(self):
        print("{machine}, {isa}, {threads} threads, {date}".format(**self.common))
        print(f"{'':53} {'type':5} {'ours':>10} {'peer':>10} {'unit':9} {'ours/peer':>9}  good is  peer"
              "  (peak memory in MB: ours, peer)", flush=True)

    def add(self, name, unit, better, ours, peer, peer_name, dtype, **more):
        """Adds and prints one row. `peer` None: there is none, and `peer_name` says why."""
        ratio = ours / peer if peer else None
        self.rows.append({"name": name, "unit": unit, "better": better, "ours": ours, "peer": peer,
                          "peer_name": peer_name, "ratio": ratio, **self.common, "dtype": dtype, **more})
        theirs = f"{peer:10.4g}" if peer else f"{'-':>10}"
        share = f"{ratio:9.3g}" if peer else f"{'-':>9}"
        peaks = [more[key] for key in ("peak_rss_mb", "peer_peak_rss_mb") if key in more]
        memory = f"  ({', '.join(f'{peak:.0f}' for peak in peaks)})" if peaks else ""
        print(f"{name:53} {dtype:5} {ours:10.4g} {theirs} {unit:9} {share}  {better:7}  {peer_name}{memory}",
              flush=True)

    def error(self, text):
        """Notes a wrong result, which makes the whole run fail."""
        self.wrong.append(text)
        print(f"WRONG: {text}", flush=True)

    def save(self, folder):
        os.makedirs(folder, exist_ok=True)
        model = self.common["machine"].split(" (")[0].lower()
        label = "-".join("".join(c if c.isalnum() else " " for c in model).split())
        path = os.path.join(folder, f"{self.common['date']}-{label}-{self.common['isa']}.json")
        with open(path, "w") as file:
            file.write("[\n" + ",\n".join(" " + json.dumps(row) for row in self.rows) + "\n]\n")
        print(f"written: {os.path.relpath(path)}")
