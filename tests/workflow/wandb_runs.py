"""What W&B wrote or received, read back: its offline logs, and a stand-in for its server."""

import contextlib
import gzip
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK = 7, 32768


def records(path):
    """Records of a `.wandb` file: LevelDB's log format, each piece with a checksum, its length and whether the record ends with it."""
    data, at, whole = path.read_bytes(), HEADER, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:  # the rest of the block is padding
            at += BLOCK - at % BLOCK
            continue
        if at + 7 + length > len(data):  # it is being written
            return
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


@dataclass
class Start:
    """One start of a W&B run, as its offline log tells it."""

    id: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict
    rows: list[dict]
    files: Path

    def table(self, name):
        """The table of the last row under a logged name."""
        told = json.loads((self.files / self.rows[-1][name]["path"]).read_text())
        return pd.DataFrame(told["data"], columns=told["columns"])

    def figures(self):
        """By the name below `test/figures/` the bytes of the images of the last row."""
        told = {name.removeprefix("test/figures/"): each for name, each in self.rows[-1].items() if name.startswith("test/figures/")}
        return {name: (self.files / each["path"]).read_bytes() for name, each in told.items()}


def starts(folder):
    """All starts of the W&B runs of a run directory, oldest first; media are their descriptions."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        start = Start("", "", "", "", [], {}, [], path.parent / "files")
        found.append(start)
        for record in records(path):
            if record.HasField("run"):
                run = record.run
                start.id, start.name, start.group, start.job_type = run.run_id, run.display_name, run.run_group, run.job_type
                start.tags = list(run.tags)
                start.config = {item.key: json.loads(item.value_json) for item in run.config.update}
            if record.HasField("history"):
                start.rows.append(_row(record.history))
    return found


def _row(history):
    row = {}
    for item in history.item:
        *outer, name = item.nested_key or [item.key]
        place = row
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)
    return row


def logged(folder):
    """All rows of a run directory's offline logs, oldest start first."""
    return [row for start in starts(folder) for row in start.rows]


def media(folder, described):
    """The table that a logged description names."""
    (path,) = folder.glob(f"wandb/offline-run-*/files/{described['path']}")
    return json.loads(path.read_text())


def draw(folder, *names):
    """Small pictures in place of figures, each another one."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), shade).save(folder / name, "PNG")


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as `wandb sync` of rows needs; a run's rows lie at the offsets that the client gave."""

    def log_message(self, *told):
        pass

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
        try:
            asked = json.loads(data)
        except ValueError:  # W&B's telemetry
            return self._answer({})
        if "/file_stream" in self.path:
            run = self.server.runs[self.path.split("/")[4]]
            for name, chunk in (asked.get("files") or {}).items():
                if "history" in name:
                    run["rows"] |= {chunk["offset"] + i: json.loads(line) for i, line in enumerate(chunk["content"])}
            return self._answer({})
        return self._answer({"data": self._graphql(asked["query"], asked.get("variables") or {})})

    def _graphql(self, query, told):
        if "RunResumeStatus" in query:
            return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": self._bucket(told["name"])}}
        if "mutation UpsertBucket" in query:
            run = self.server.runs.setdefault(told["name"], {"rows": {}})
            run |= {name: value for name, value in told.items() if value}
            return {"upsertBucket": {"bucket": self._bucket(told["name"]), "inserted": True}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}, "serverInfo": {"features": []}}

    def _bucket(self, name):
        if name not in self.server.runs:
            return None
        run = self.server.runs[name]
        tail = [json.dumps(row) for _, row in sorted(run["rows"].items())][-1:]
        described = {"id": name, "name": name, "displayName": name, "summaryMetrics": "{}", "config": run.get("config", "{}"), "tags": []}
        counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(run["rows"])}
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
        return described | counts | {"historyTail": json.dumps(tail), "eventsTail": "[]", "wandbConfig": '{"t": 1}', "project": project}

    def _answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def server():
    """A stand-in on this machine; `.runs` is what it was sent, `.url` where it listens."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    listening.runs, listening.url = {}, f"http://127.0.0.1:{listening.server_address[1]}"
    listening.handle_error = lambda *told: None  # a client that hangs up
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield listening
    finally:
        listening.shutdown()
        listening.server_close()
